import io
import json
import socket
import threading
import zipfile
from collections import Counter
from contextlib import closing

import pytest
from PIL import Image

from benchmarks.load import Tally, Target, load, main, null_server, some_pictures, summary, table
from shutterless.bodies import read_submission


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("SHUTTERLESS_DATA", raising=False)


def test_a_request_is_a_form_with_the_picture(pictures):
    head, _, body = Target(url="http://localhost:1", field="image", key="secret").request(pictures[0]).partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"POST /predict HTTP/1.1\r\n")
    assert int(lines["Content-Length"]) == len(body)
    assert lines["x-api-key"] == "secret"
    assert b'name="image"' in body
    assert read_submission(lines["Content-Type"], body.replace(b'name="image"', b'name="file"'), 10_000).picture == pictures[0]


@pytest.mark.parametrize("clients", [1, 8])
def test_our_server_under_load_answers_without_errors_and_its_costs_are_told(ours, pictures, clients):
    found = load(ours.target, pictures, clients=clients, seconds=1, warm_up_s=0.2, pid=ours.pid)
    assert found["errors"] == {}
    assert found["n"] >= clients
    assert found["requests_s"] == pytest.approx(found["n"] / found["seconds"], rel=0.01)
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"]
    assert found["cpu_ms"]["server"] >= 0
    assert found["cpu_ms"]["client"] > 0
    assert found["peak_mb"] > 20


def test_refusals_are_counted_by_status_and_are_no_answers(ours, pictures):
    found = load(Target(url=ours.target.url, path="/nowhere"), pictures, clients=2, seconds=2, warm_up_s=0)
    assert set(found["errors"]) == {"404"}
    assert found["n"] == 0
    assert "p50_ms" not in found
    assert "x 404" in "\n".join(table([found]))


def test_a_server_that_closes_after_each_answer_is_asked_again_and_the_closing_is_counted(pictures):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def answer_once_a_connection() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        thread = threading.Thread(target=answer_once_a_connection)
        thread.start()
        found = load(Target(url=f"http://127.0.0.1:{listener.getsockname()[1]}"), pictures[:1], clients=1, seconds=1, warm_up_s=0)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert found["n"] > 1
    assert found["errors"]["connection closed"] >= found["n"] - 1


def test_an_answer_that_comes_in_pieces_is_one_answer(pictures):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def dribble() -> None:
            connection, _ = listener.accept()
            with closing(connection):
                while connection.recv(65_536):
                    for piece in (b"HTTP/1.1 200", b" OK\r\nContent-Le", b"ngth: 4\r\n\r", b"\n{", b"  }"):
                        connection.sendall(piece)
        thread = threading.Thread(target=dribble)
        thread.start()
        found = load(Target(url=f"http://127.0.0.1:{listener.getsockname()[1]}"), [b"tiny"], clients=1, seconds=0.3, warm_up_s=0)
        thread.join()
    assert found["n"] > 0
    assert found["errors"] == {}


def test_without_a_server_it_says_so(pictures):
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SystemExit, match=f"Expected a server at http://127.0.0.1:{port}, got: .*Start it first"):
        load(Target(url=f"http://127.0.0.1:{port}"), pictures, clients=1, seconds=1)


def test_the_null_server_answers_more_than_one_client(pictures):
    with null_server() as (url, pid):
        found = load(Target(url=url), pictures, clients=4, seconds=0.3, warm_up_s=0.1, pid=pid)
    assert found["errors"] == {}
    assert found["n"] > 4


def test_figures_are_per_answer_and_over_the_time_that_was_counted():
    tally = Tally(taken_s=[0.001 * i for i in range(1, 101)], errors=Counter({"503": 3}))
    found = summary(tally, 16, 2.0, {"server": 0.4, "client": 0.01}, 123.456)
    assert found == {"clients": 16, "seconds": 2.0, "n": 100, "requests_s": 50.0, "errors": {"503": 3}, "p50_ms": 50.5,
                     "p95_ms": 95.05, "p99_ms": 99.01, "cpu_ms": {"server": 4.0, "client": 0.1}, "peak_mb": 123.5}


def test_pictures_are_drawn_always_the_same_or_taken_from_a_zip(tmp_path, monkeypatch):
    source, drawn = some_pictures(count=5)
    assert source == "drawn"
    assert len(set(drawn)) == 5
    assert drawn == some_pictures(count=5)[1]
    assert {Image.open(io.BytesIO(picture)).size for picture in drawn} == {(64, 64)}
    with zipfile.ZipFile(tmp_path / "EuroSAT.zip", "w") as file:
        for i in range(9):
            file.writestr(f"2750/River/River_{i}.jpg", bytes([i]))
        file.writestr("2750/readme.txt", "no picture")
    monkeypatch.setenv("SHUTTERLESS_DATA", str(tmp_path))
    source, taken = some_pictures(count=9)
    assert (source, sorted(taken)) == ("EuroSAT.zip", [bytes([i]) for i in range(9)])


def test_the_command_prints_a_table_and_one_line_of_json_last(capsys):
    assert main(["--null", "--clients", "1", "2", "--seconds", "0.2", "--warm-up", "0"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["clients", "1", "2", "CPU"]
    assert [found["clients"] for found in json.loads(last)["loads"]] == [1, 2]
