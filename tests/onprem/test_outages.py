import socket
import threading
import time
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest


class Wire:
    """A TCP port that leads to PostgreSQL's socket, until it is cut, and again when it is mended."""

    def __init__(self, database: str) -> None:
        address = urlsplit(database)
        self._target = f"{parse_qs(address.query)['host'][0]}/.s.PGSQL.5432"
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}{address.path}"
        self._is_cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if self._is_cut:
                    here.close()
                    continue
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._target)
                self._open += [here, there]
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(65_536):
                target.sendall(chunk)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire(new_postgres_database):
    wire = Wire(new_postgres_database())
    yield wire
    wire.close()


def wait_for_status(client: httpx.Client, path: str, status: int) -> httpx.Response:
    for _ in range(600):
        answer = client.get(path)
        if answer.status_code == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{path} answers {answer.status_code}")


@pytest.mark.needs("postgres")
def test_a_database_that_goes_away_and_comes_back_loses_nothing_that_was_taken(open_door, wire, jpeg, settle) -> None:
    client = open_door(database_url=wire.url)
    wait_for_status(client, "/health/ready", 200)
    ids = [client.post("/upload-image", content=jpeg()).json()["request_id"] for _ in range(10)]
    form = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": len(jpeg("blue"))}).json()
    wire.cut()
    assert wait_for_status(client, "/health/ready", 503).headers["retry-after"] == "1"
    assert client.get("/health/live").status_code == 200
    assert client.post("/predict", content=jpeg()).status_code == 200
    for answer in (client.post("/upload-image", content=jpeg()), client.post("/upload", content=jpeg()),
                   client.get("/results"), client.get("/stats"), client.post("/uploads", json={"content_type": "image/jpeg",
                                                                                               "size_bytes": 9}),
                   client.post(form["url"], data=form["fields"], files={"file": jpeg("blue")})):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    wire.mend()
    wait_for_status(client, "/health/ready", 200)
    assert [settle(client, request_id)["status"] for request_id in ids] == ["done"] * 10
    assert client.post(form["url"], data=form["fields"], files={"file": jpeg("blue")}).status_code == 204
    assert settle(client, form["request_id"])["predicted_label"] == "blue"
    assert client.get("/stats").json()["by_status"]["done"] == 11
