import base64
import contextlib
import json
import re
import select
import socket
import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest

from shutterless.uploads import FORM_S, NEVER_ARRIVED


def announced(client: httpx.Client, picture: bytes, **fields: object) -> dict:
    answer = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": len(picture)} | fields)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def post(client: httpx.Client, form: dict, picture: bytes, **changed: str) -> httpx.Response:
    return httpx.post(form["url"], data=form["fields"] | changed, files={"file": ("tile.jpg", picture)}, timeout=30)


def test_a_form_takes_the_picture_that_was_announced_once_and_without_a_key(open_door, jpeg, settle, database_url) -> None:
    client = open_door(database_url=database_url, api_keys=("key",), headers={"x-api-key": "key"})
    form = announced(client, jpeg("green"), true_label="red", task="classify")
    assert set(form) == {"request_id", "url", "fields", "expires_at", "max_bytes"}
    assert form["url"] == f"{str(client.base_url).rstrip('/')}/uploads/form"
    left = datetime.fromisoformat(form["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=FORM_S - 60) < left <= timedelta(seconds=FORM_S)
    pending = client.get("/results", params={"request_id": form["request_id"]})
    assert (pending.json()["results"][0]["status"], pending.headers["retry-after"]) == ("pending", "1")
    for _ in range(3):
        answer = post(client, form, jpeg("green"))
        assert (answer.status_code, answer.content) == (204, b"")
        record = settle(client, form["request_id"])
    assert (record["status"], record["predicted_label"], record["true_label"]) == ("done", "green", "red")
    assert record["image_name"] == "tile.jpg"
    assert client.get("/results").json()["count"] == 1
    assert client.get(f"/results/{form['request_id']}/image").content == jpeg("green")


def test_a_form_that_is_sent_many_times_at_once_is_one_row_with_one_answer(open_door, jpeg, settle) -> None:
    client = open_door()
    form, statuses = announced(client, jpeg()), []
    threads = [threading.Thread(target=lambda: statuses.append(post(client, form, jpeg()).status_code)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 204 in statuses
    assert set(statuses) <= {204, 503}
    assert settle(client, form["request_id"])["status"] == "done"
    assert client.get("/stats").json()["by_status"] == {"pending": 0, "done": 1, "failed": 0, "stalled": 0}


def test_clients_without_a_signature_that_send_slowly_keep_no_form_out(open_door, jpeg, settle) -> None:
    client = open_door(max_waiting=2, api_keys=("key",), headers={"x-api-key": "key"})
    form = announced(client, jpeg("green"))
    with contextlib.ExitStack() as slow:
        for _ in range(50):
            slow.enter_context(begun(client, b"--b\r\nContent-Disposition: form-data; name=key\r\n\r\nupl"))
        assert post(client, form, jpeg("green")).status_code == 204
    assert settle(client, form["request_id"])["predicted_label"] == "green"


def test_what_comes_without_a_signature_is_little_and_keeps_no_form_out(open_door, jpeg, wait_for) -> None:
    client = open_door(max_waiting=2, max_bytes=20_000, api_keys=("key",), headers={"x-api-key": "key"})
    form = announced(client, jpeg())
    field = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n" + b"x" * 7_000 + b"\r\n"
    with contextlib.ExitStack() as unsigned:
        many = [unsigned.enter_context(begun(client, field * 2)) for _ in range(20)]
        wait_for(lambda: client.door.tallies.in_flight == len(many))
        assert post(client, form, jpeg()).status_code == 204
        assert client.door.form_spools.held_bytes == client.door.form_spools.requests == 0
        for connection in many:
            connection.sendall(field)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 422 ")


def test_a_form_takes_one_place_however_often_it_is_begun(open_door, jpeg, settle, wait_for) -> None:
    client = open_door(max_waiting=2)
    form, other, spools = announced(client, jpeg()), announced(client, jpeg("green")), client.door.form_spools
    with begun(client, signed(form) + jpeg()[:10]):
        wait_for(lambda: spools.requests == 1)
        for _ in range(4):
            with begun(client, signed(form) + jpeg()[:10]) as again:
                said = told(again)
                assert said.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 1\r\n" in said
                assert b"This picture is being received already" in said
        assert spools.requests == 1
        assert post(client, other, jpeg("green")).status_code == 204
    wait_for(lambda: spools.requests == 0)  # the connection broke
    assert post(client, form, jpeg()).status_code == 204
    assert [settle(client, one["request_id"])["predicted_label"] for one in (form, other)] == ["red", "green"]


def test_forms_that_come_slowly_give_way_and_can_be_sent_again(open_door, jpeg, monkeypatch, wait_for) -> None:
    client = open_door(max_waiting=2)
    slow, other, spools = [announced(client, jpeg()) for _ in range(2)], announced(client, jpeg()), client.door.form_spools
    with contextlib.ExitStack() as connections:
        slowly = [connections.enter_context(begun(client, signed(form) + jpeg()[:10])) for form in slow]
        wait_for(lambda: spools.requests == 2)
        assert post(client, other, jpeg()).status_code == 503, "they are not slow yet"
        monkeypatch.setattr("onprem.rooms.FAIR_S", 0.0)
        assert post(client, other, jpeg()).status_code == 204
        wait_for(lambda: spools.requests == 1)
        said = told(select.select(slowly, [], [], 20)[0][0])
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"Others needed the room" in said
    wait_for(lambda: spools.requests == spools.held_bytes == 0)
    assert [post(client, form, jpeg()).status_code for form in slow] == [204, 204]


def signed(form: dict) -> bytes:
    """The beginning of a form's body, up to its picture."""
    fields = "".join(f"--b\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}\r\n"
                     for name, value in form["fields"].items())
    return fields.encode() + b"--b\r\nContent-Disposition: form-data; name=file; filename=a.jpg\r\n\r\n"


def begun(client: httpx.Client, body: bytes) -> socket.socket:
    """A connection on which this much of a form has been sent."""
    address = urlsplit(str(client.base_url))
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(b"POST /uploads/form HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                       b"Content-Length: 22000\r\n\r\n" + body)
    return connection


def told(connection: socket.socket) -> bytes:
    """A problem, whole."""
    said = connection.recv(65_536)
    while not said.endswith(b"}"):
        said += connection.recv(65_536)
    return said


def test_the_policy_holds_key_type_size_and_time(client, jpeg) -> None:
    form = announced(client, jpeg())
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    key = f"uploads/classify/{form['request_id']}.jpg"
    assert policy["conditions"] == [{"key": key}, {"Content-Type": "image/jpeg"},
                                    ["content-length-range", len(jpeg()), len(jpeg())]]
    ends = datetime.fromisoformat(policy["expiration"])
    assert abs((ends - datetime.fromisoformat(form["expires_at"])).total_seconds()) < 5


def test_a_form_that_was_changed_is_refused_and_can_still_be_used(client, jpeg, settle) -> None:
    form, other = announced(client, jpeg()), announced(client, jpeg())
    policy = base64.b64encode(base64.b64decode(form["fields"]["policy"]).replace(b"classify", b"caption0")).decode()
    for changed in ({"key": other["fields"]["key"]}, {"key": ""}, {"Content-Type": "image/png"}, {"signature": ""},
                    {"signature": "0" * 64}, {"signature": "ключ"}, {"policy": policy}, {"policy": ""}, {"policy": "x" * 9000},
                    {"policy": other["fields"]["policy"]}):
        answer = post(client, form, jpeg(), **changed)
        assert answer.status_code == 403, changed
        assert answer.headers["content-type"] == "application/problem+json"
        assert "as they were given" in answer.json()["detail"]
    without = {name: value for name, value in form["fields"].items() if name != "signature"}
    assert httpx.post(form["url"], data=without, files={"file": jpeg()}).status_code == 403
    assert post(client, form, jpeg()).status_code == 204
    assert settle(client, form["request_id"])["status"] == "done"
    assert client.get("/results", params={"request_id": other["request_id"]}).json()["results"][0]["status"] == "pending"


def test_a_picture_that_is_not_the_announced_one_is_refused_and_the_right_one_still_taken(client, draw, encode, jpeg,
                                                                                           settle) -> None:
    form = announced(client, jpeg())
    png = encode(draw(), "PNG")
    lying = (png + bytes(len(jpeg())))[:len(jpeg())]
    for picture, status in ((jpeg() + b"x", 413), (jpeg()[:-1], 422), (b"", 422), (bytes(len(jpeg())), 400), (lying, 415),
                            (bytes(1_000_000), 413)):
        answer = post(client, form, picture)
        assert answer.status_code == status, answer.text
    two = httpx.post(form["url"], data=form["fields"], files=[("file", jpeg()), ("file", jpeg())])
    assert two.status_code == 422
    assert httpx.post(form["url"], files={"x": (None, "y")}).status_code == 422
    assert httpx.post(form["url"], content=b"{}").status_code == 415
    assert client.get(f"/results/{form['request_id']}/image").status_code == 404
    assert post(client, form, jpeg()).status_code == 204
    assert settle(client, form["request_id"])["status"] == "done"


def test_a_form_that_is_over_takes_nothing(open_door, jpeg, monkeypatch) -> None:
    monkeypatch.setattr("onprem.forms.FORM_S", -1)
    client = open_door()
    answer = post(client, announced(client, jpeg()), jpeg())
    assert answer.status_code == 403
    assert "POST /uploads" in answer.json()["detail"]


def test_a_picture_that_never_comes_is_failed_in_time_and_not_before(open_door, jpeg, monkeypatch, settle, database_url) -> None:
    client = open_door(database_url=database_url)
    client.door.worker._poll_s = 0.05
    client.door.worker.wake()
    waits = announced(client, jpeg())
    monkeypatch.setattr("onprem.forms.GRACE_S", 1 - FORM_S)
    late = announced(client, jpeg())
    record = settle(client, late["request_id"])
    assert (record["status"], record["error"]) == ("failed", NEVER_ARRIVED)
    answer = post(client, late, jpeg())
    assert answer.status_code == 404
    assert "too late" in answer.json()["detail"]
    assert client.get(f"/results/{late['request_id']}/image").status_code == 404
    assert client.get("/results", params={"request_id": waits["request_id"]}).json()["results"][0]["status"] == "pending"


def test_a_picture_whose_result_was_deleted_meanwhile_is_not_taken(open_door, jpeg, tmp_path) -> None:
    client = open_door()
    form = announced(client, jpeg())
    assert client.delete(f"/results/{form['request_id']}").status_code == 204
    assert post(client, form, jpeg()).status_code == 404
    assert not list(tmp_path.rglob("*.jpg"))
    assert client.get("/results").json()["count"] == 0


def test_forms_outlive_kill_9_with_their_rows_and_their_secret_is_for_nobody_else(start, jpeg, settle, tmp_path) -> None:
    first = start()
    with httpx.Client(base_url=first.url(), timeout=60) as client:
        form = announced(client, jpeg("blue"))
    first.kill()
    secret = tmp_path / "var" / "form-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert re.fullmatch("[0-9a-f]{64}", secret.read_text())
    second = start()
    with httpx.Client(base_url=second.url(), timeout=60) as client:
        form["url"] = f"{client.base_url}/uploads/form"
        assert client.get("/results", params={"request_id": form["request_id"]}).json()["results"][0]["status"] == "pending"
        assert post(client, form, jpeg("blue")).status_code == 204
        assert settle(client, form["request_id"])["predicted_label"] == "blue"


def test_a_picture_that_came_just_before_a_kill_9_is_not_given_up(start, jpeg, settle, tmp_path) -> None:
    first = start()
    with httpx.Client(base_url=first.url(), timeout=60) as client:
        form = announced(client, jpeg("blue"))
    first.kill()
    path = tmp_path / "var" / "objects" / form["fields"]["key"]  # stored, as its row does not say yet
    path.parent.mkdir(parents=True)
    path.write_bytes(jpeg("blue"))
    with sqlite3.connect(tmp_path / "var" / "shutterless.db") as connection:  # and the time of the form goes by
        connection.execute("UPDATE results SET claimed_until = '2000-01-01 00:00:00.000000'")
    connection.close()
    with httpx.Client(base_url=start().url(), timeout=60) as client:
        assert settle(client, form["request_id"])["predicted_label"] == "blue"


def test_servers_with_the_same_secret_take_each_other_s_forms_where_they_are_told_to_lead(open_door, jpeg, tmp_path) -> None:
    shared = {"form_secret": "s" * 32, "database_url": f"sqlite:///{tmp_path}/shared.db",
              "objects_url": str(tmp_path / "objects")}
    one = open_door(public_url="https://pictures.example/api/", var_dir=tmp_path / "one", **shared)
    other = open_door(var_dir=tmp_path / "other", **shared)
    form = announced(one, jpeg())
    assert form["url"] == "https://pictures.example/api/uploads/form"
    form["url"] = f"{other.base_url}/uploads/form"
    assert post(other, form, jpeg()).status_code == 204
    assert not (tmp_path / "one" / "form-secret").exists()


@pytest.mark.parametrize(("fields", "status"), [
    ({"content_type": None}, 422), ({"content_type": "image/svg+xml"}, 415), ({"size_bytes": 0}, 422), ({"size_bytes": "9"}, 422),
    ({"size_bytes": 20_000_001}, 413), ({"task": "caption"}, 422), ({"true_label": "x" * 201}, 422)])
def test_an_announcement_that_does_not_fit_is_refused_by_name(client, fields, status) -> None:
    answer = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": 10} | fields)
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(f"{next(iter(fields))}: ") or status == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_an_announcement_that_is_no_json_object_is_refused(client, body) -> None:
    assert client.post("/uploads", content=body).status_code == 422
