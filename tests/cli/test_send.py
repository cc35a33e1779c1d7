import csv
import json
import re
import shutil
import signal
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.remote import wait_s
from cli.send import COLUMNS

ANSWER = {"label": "red", "confidence": 0.9, "in_distribution": True, "model": {"name": "colours", "version": "1"},
          "timings": {"inference_s": 0.001}}


@pytest.fixture
def labelled(tmp_path, pictures):
    """Two pictures of red, one of them blue in truth, one of green, and a broken one."""
    folder = tmp_path / "tiles"
    for label in ("red", "green"):
        (folder / label).mkdir(parents=True)
    shutil.copy(pictures / "red.png", folder / "red/a.png")
    shutil.copy(pictures / "deep/blue", folder / "red/b.bmp")
    shutil.copy(pictures / "deep/green.jpg", folder / "green/c.jpg")
    return folder


@pytest.fixture
def server(start):
    """The address of our real server."""
    def serve(**variables: str) -> str:
        process = start("serve", "--port", "0", "--model", "colours", **variables)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        return re.search(rb"http://\S+", line)[0].decode()
    return serve


@contextmanager
def scripted(*answers):
    """A server that answers POST /predict with these (status, headers) in turn, then with 200; what it was asked."""
    asked, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(200, {}, {"models": [{"name": "colours", "version": "1", "default": True, "labels": ["red"]}]})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, headers = left.pop(0) if left else (200, {})
            self.answer(status, headers, ANSWER if status == 200 else {"detail": "Busy."})

        def answer(self, status, headers, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_picture_is_a_row_and_folders_that_are_labels_give_accuracy(shutterless, server, labelled, tmp_path):
    done = shutterless("send", labelled, "--to", server(), "--out", "answers.csv")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = sorted(rows_of(tmp_path / "answers.csv"), key=lambda row: row["file"])
    assert tuple(rows[0]) == COLUMNS
    assert [(row["true_label"], row["label"], row["model"]) for row in rows] == [
        ("green", "green", "colours/1"), ("red", "red", "colours/1"), ("red", "blue", "colours/1")]
    assert all(0.5 < float(row["confidence"]) <= 1 for row in rows)
    text = done.stdout.decode()
    assert "3 answers in answers.csv" in text
    assert "accuracy 66.67% (95 % interval 20.77% to 93.85%, 3 pictures)" in text
    assert re.search(r"red +2 +50\.00%", text)


def test_without_labels_it_counts_what_was_seen_and_a_bad_picture_is_told_and_tried_again_next_time(
        shutterless, server, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    address = server()
    done = shutterless("send", pictures, "--to", address)
    assert done.returncode == 1
    assert "accuracy" not in done.stdout.decode()
    assert re.search(r"green +1", done.stdout.decode())
    (reason,) = done.stderr.decode().splitlines()
    assert reason.startswith(f"{pictures / 'broken.jpg'}: 400, ")
    shutil.copy(pictures / "red.png", pictures / "broken.jpg")
    again = shutterless("send", pictures, "--to", address)
    assert (again.returncode, again.stderr) == (0, b"")
    assert b"4 answers in answers.csv, 3 of them from before" in again.stdout
    assert sorted(row["file"] for row in rows_of(tmp_path / "answers.csv")) == sorted({
        str(pictures / name) for name in ("red.png", "deep/green.jpg", "deep/blue", "broken.jpg")})


def test_what_was_answered_is_not_asked_again_even_after_a_row_was_cut_off(shutterless, labelled, tmp_path):
    with scripted() as (url, asked):
        assert shutterless("send", labelled, "--to", url, "--clients", "1").returncode == 0
        whole = (tmp_path / "answers.csv").read_text()
        (tmp_path / "answers.csv").write_text(whole[:whole.rindex("colours/1")])
        done = shutterless("send", labelled, "--to", url)
    assert done.returncode == 0
    assert len(asked) == 4
    assert len(rows_of(tmp_path / "answers.csv")) == 3
    assert b"3 answers in answers.csv, 2 of them from before" in done.stdout


def test_a_busy_server_is_asked_again_when_it_says_so(shutterless, labelled):
    busy = {"Retry-After": "0"}
    with scripted((503, busy), (429, busy), (504, busy), (503, busy)) as (url, asked):
        done = shutterless("send", labelled / "red/a.png", "--to", url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(asked) == 5


def test_a_server_that_stays_busy_ends_it_with_a_sentence_and_keeps_the_answers(shutterless, labelled, tmp_path):
    with scripted((200, {}), *[(503, {"Retry-After": "0"})] * 8) as (url, _):
        done = shutterless("send", labelled, "--to", url, "--clients", "1")
    assert done.returncode == 1
    assert b"got none in 8 tries; the last time: 503, Busy. Send again later: what was answered is kept." in done.stderr
    assert [row["label"] for row in rows_of(tmp_path / "answers.csv")] == ["red"]


def test_a_closed_connection_is_opened_again(shutterless, labelled):
    with scripted((200, {"Connection": "close"})) as (url, asked):
        assert shutterless("send", labelled, "--to", url, "--clients", "1").returncode == 0
    assert len(asked) == 3


def test_a_wrong_key_and_a_wrong_model_end_it_at_once(shutterless, server, labelled):
    address = server(SHUTTERLESS_API_KEYS="right")
    done = shutterless("send", labelled, "--to", address)
    assert done.returncode == 1
    assert b"Give its key: SHUTTERLESS_API_KEYS" in done.stderr
    done = shutterless("send", labelled, "--to", address, "--model", "nobody", SHUTTERLESS_API_KEYS="right")
    assert done.returncode == 1
    assert b"answered 404" in done.stderr
    assert shutterless("send", labelled, "--to", address, "--model", "colours/1", SHUTTERLESS_API_KEYS="right").returncode == 0


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://localhost", "http://", "http://a b", "http://localhost:8000/?x=1"])
def test_what_is_no_address_is_refused(shutterless, labelled, address):
    done = shutterless("send", labelled, "--to", address)
    assert done.returncode == 1
    assert b"--to: expected an address like http://localhost:8000" in done.stderr


def test_a_file_of_someone_else_is_not_written_over(shutterless, labelled, tmp_path):
    (tmp_path / "answers.csv").write_text("name,salary\nme,1\n")
    with scripted() as (url, asked):
        done = shutterless("send", labelled, "--to", url)
    assert done.returncode == 1
    assert b"--out: expected a file that `shutterless send` wrote" in done.stderr
    assert (tmp_path / "answers.csv").read_text() == "name,salary\nme,1\n"
    assert asked == []


def test_ctrl_c_does_not_wait_for_a_busy_server_and_keeps_the_answers(start, labelled, tmp_path):
    with scripted((200, {}), *[(503, {"Retry-After": "60"})] * 9) as (url, asked):
        process = start("send", str(labelled), "--to", url, "--clients", "1")
        while len(asked) < 2:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert len(rows_of(tmp_path / "answers.csv")) == 1


def test_waiting_grows_is_bounded_and_is_as_long_as_the_server_says():
    assert 0.5 <= wait_s(0, None) <= 0.625
    assert 4 <= wait_s(3, None) <= 5
    assert wait_s(50, None) <= 75
    assert 3 <= wait_s(0, 3.0) <= 3.75
    assert wait_s(0, 0.0) == 0
