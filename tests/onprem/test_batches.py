import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from onprem.spools import WRITE_BYTES


def files(*pictures: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", picture) for picture in pictures]


def test_each_picture_of_a_batch_is_answered_and_recorded_for_itself(open_door, jpeg, database_url) -> None:
    client = open_door(database_url=database_url)
    answer = client.post("/upload_batch", data={"true_label": ["red", "", "x" * 201, "blue"]}, files=files(
        ("same.jpg", jpeg("red")), ("same.jpg", jpeg("green")), ("label.jpg", jpeg("red")), ("bad.jpg", b"no picture")))
    assert answer.status_code == 200
    said = answer.json()
    assert [(one["filename"], one["predicted_label"], one["true_label"]) for one in said["results"]] == [
        ("same.jpg", "red", "red"), ("same.jpg", "green", None)]
    assert [one["filename"] for one in said["failed"]] == ["label.jpg", "bad.jpg"]
    assert said["failed"][0]["error"].startswith("true_label: expected at most 200 characters")
    assert said["failed"][1]["error"].startswith("Expected a picture")
    records = client.get("/results").json()["results"]
    assert {record["request_id"] for record in records} == {one["request_id"] for one in said["results"]}
    assert {record["id"] for record in records} == {one["prediction_id"] for one in said["results"]}
    assert client.get("/stats").json()["accuracy"]["n"] == 1


def test_a_bad_file_never_spoils_the_batch(open_door, jpeg, draw, encode) -> None:
    client = open_door(max_bytes=20_000, max_pixels=100_000)
    bad = {"empty": b"", "cut": jpeg()[:300], "text": b"hello", "svg": b"<svg xmlns='x'/>", "bytes": jpeg() + bytes(30_000),
           "pixels": encode(draw((400, 400)), "GIF")[:20_000]}
    good = {kind: encode(draw((40, 30)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    mixed = [picture for pair in zip(bad.items(), good.items(), strict=True) for picture in pair]
    said = client.post("/upload_batch", files=files(*mixed)).json()
    assert [one["filename"] for one in said["results"]] == list(good)
    assert [one["filename"] for one in said["failed"]] == list(bad)
    assert all(one["error"].endswith(".") for one in said["failed"])
    for one in said["results"]:
        assert client.get(f"/results/{one['request_id']}/image").content == good[one["filename"]]


@pytest.mark.parametrize("labels", [["red"], ["red", "red", "red"]])
def test_labels_that_nobody_can_tell_whose_they_are_are_refused(open_door, jpeg, labels) -> None:
    client = open_door()
    answer = client.post("/upload_batch", data={"true_label": labels}, files=files(("a", jpeg()), ("b", jpeg())))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("true_label: expected one for each of 2 files")
    assert client.get("/results").json()["count"] == 0


def test_a_batch_without_files_or_of_another_type_is_refused(client, jpeg) -> None:
    assert client.post("/upload_batch", data={"true_label": "red"}).status_code == 415  # a form without a file is none
    for body in (b"--b--\r\n", b"--b\r\nContent-Disposition: form-data; name=true_label\r\n\r\nred\r\n--b--\r\n"):
        answer = client.post("/upload_batch", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code == 422
        assert "files" in answer.json()["detail"]
    assert client.post("/upload_batch", content=jpeg(), headers={"content-type": "image/jpeg"}).status_code == 415


def test_too_many_files_and_too_many_bytes_are_refused_and_nothing_is_kept(open_door, jpeg, tmp_path) -> None:
    client = open_door(batch_files=3, batch_bytes=100_000)
    answer = client.post("/upload_batch", files=files(*[("a", jpeg())] * 4))
    assert answer.status_code == 413
    assert "at most 3 files" in answer.json()["detail"]
    assert client.post("/upload_batch", files=files(("a", bytes(300_000)))).status_code == 413
    chunks = (b"--b\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n", *[bytes(50_000)] * 6)
    answer = client.post("/upload_batch", content=iter(chunks), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert client.get("/results").json()["count"] == 0
    assert not [path for path in (tmp_path / "var").rglob("*") if path.is_file() and not path.suffix.startswith(".db")]
    assert (client.door.spools.requests, client.door.spools.held_bytes) == (0, 0)


def test_500_files_are_one_batch(open_door, jpeg) -> None:
    client = open_door()
    client.timeout = 200
    said = client.post("/upload_batch", files=files(*((f"{number}.jpg", jpeg("blue")) for number in range(500)))).json()
    assert [one["filename"] for one in said["results"]] == [f"{number}.jpg" for number in range(500)]
    assert said["failed"] == []
    assert client.get("/stats").json()["by_status"]["done"] == 500


def test_a_client_that_goes_half_way_leaves_nothing_behind(open_door, jpeg) -> None:
    client = open_door()
    address = urlsplit(str(client.base_url))
    part = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.jpg\r\n\r\n" + jpeg() + b"\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"POST /upload_batch HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                           b"Content-Length: 3000000\r\n\r\n" + part + part + bytes(2 * WRITE_BYTES))
        for _ in range(1000):
            if client.door.spools.held_bytes > 2 * WRITE_BYTES:
                break
            time.sleep(0.01)
    for _ in range(1000):
        if client.door.spools.requests == 0:
            break
        time.sleep(0.01)
    assert (client.door.spools.requests, client.door.spools.held_bytes) == (0, 0)
    assert client.get("/results").json()["count"] == 0


def test_a_form_that_ends_too_soon_is_told_so(client, jpeg) -> None:
    body = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.jpg\r\n\r\n" + jpeg()
    answer = client.post("/upload_batch", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 422
    assert "cut short" in answer.json()["detail"]


def test_more_forms_than_are_bounded_are_told_to_come_back(open_door, jpeg) -> None:
    client = open_door(max_waiting=1)
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"POST /upload_batch HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                           b"Content-Length: 3000\r\n\r\n"
                           b"--b\r\nContent-Disposition: form-data; name=files; filename=a.jpg\r\n\r\n")
        for _ in range(1000):
            if client.door.spools.requests:
                break
            time.sleep(0.01)
        answer = client.post("/upload_batch", files=files(("a", jpeg())))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    for _ in range(1000):
        if not client.door.spools.requests:
            break
        time.sleep(0.01)
    assert client.post("/upload_batch", files=files(("a", jpeg()))).status_code == 200


def test_a_batch_that_comes_too_slowly_is_given_up(open_door, monkeypatch) -> None:
    monkeypatch.setattr("onprem.rooms.GRACE_S", 0.3)
    client = open_door()
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(b"POST /upload_batch HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                           b"Content-Length: 3000\r\n\r\n--b")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_disk_without_room_is_told_and_the_server_goes_on(open_door, jpeg, monkeypatch) -> None:
    client = open_door()
    monkeypatch.setattr("onprem.spools.SPARE_BYTES", 10**18)
    answer = client.post("/upload_batch", files=files(("a", jpeg())))
    assert answer.status_code == 503
    assert "too little room" in answer.json()["detail"]
    assert client.post("/predict", content=jpeg()).status_code == 200
    monkeypatch.undo()
    assert client.post("/upload_batch", files=files(("a", jpeg()))).status_code == 200


def test_a_disk_that_fills_up_on_the_way_fails_the_request_and_not_the_server(tmp_path) -> None:
    """In a process that may write files of 100 kB, which the system refuses to lengthen."""
    code = f"""
import resource, tempfile
from onprem.parts import Head
from onprem.spools import Received
from shutterless.errors import Unavailable
with tempfile.TemporaryFile(dir={str(tmp_path)!r}, buffering=0) as spool:
    form = Received(spool, lambda form: 10**9)
    form.take(Head(b"files", b"a"))
    form.take(bytes(200_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        form.flush()
    except Unavailable as error:
        print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True,
                           check=True)
    assert "the disk is full" in shown.stdout


def test_memory_stays_bounded_whatever_comes(start, jpeg) -> None:
    """A batch of 300 MB, of one file that is too large and one that is not."""
    server = start()
    address = urlsplit(server.url())
    chunk = bytes(1_000_000)
    head = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.jpg\r\n\r\n"
    small, end = head + jpeg() + b"\r\n", b"\r\n--b--\r\n"
    length = len(head) + 300 * len(chunk) + 2 + len(small) - 2 + len(end)
    before = peak_bytes(server.process.pid)
    with socket.create_connection((address.hostname, address.port), timeout=120) as connection:
        connection.sendall(b"POST /upload_batch HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                           b"Content-Length: %d\r\n\r\n" % length + head)
        for _ in range(300):
            connection.sendall(chunk)
        connection.sendall(b"\r\n" + small[:-2] + end)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert peak_bytes(server.process.pid) - before < 60_000_000


def peak_bytes(pid: int) -> int:
    """The most that a process had in memory so far; where the system does not tell, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return 1024 * int(re.findall(r"^VmHWM:\s*(\d+)", status.read_text(), re.MULTILINE)[0])
    return psutil.Process(pid).memory_info().rss
