import gc
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


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
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def hold(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._flows.clear()

    def mend(self) -> None:
        self._is_cut = False
        self._flows.set()

    def close(self) -> None:
        self.cut()
        self._flows.set()
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
                self._flows.wait()
                target.sendall(chunk)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(autouse=True)
def collected(caplog):
    """Connections that were in use when their pool was given up are closed when Python collects them, which warns of it: here,
    and not in the middle of another test. Their tracebacks are in the log."""
    yield
    caplog.get_records("call").clear()
    caplog.clear()
    gc.collect()


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


OUTAGE_S = 10.0
WAYS = {"/upload-image": 202, "/upload": 200}


@pytest.mark.needs("postgres")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("outage", ["cut", "hold"])
def test_ten_seconds_without_a_database_under_load_lose_no_upload_and_repeat_none(open_door, wire, jpeg, settle, outage) -> None:
    client = open_door(database_url=wire.url)
    wait_for_status(client, "/health/ready", 200)
    over, kept, statuses, predicted = threading.Event(), {}, set(), list[int]()

    def upload(number: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not over.is_set():
                name, path = uuid.uuid4().hex, list(WAYS)[number % len(WAYS)]
                answer = own.post(path, params={"true_label": name}, content=jpeg())
                statuses.add(answer.status_code)
                if answer.status_code == WAYS[path]:
                    kept[name] = answer.json()["request_id"]
                time.sleep(0.1)

    with ThreadPoolExecutor(8) as pool:
        uploading = [pool.submit(upload, number) for number in range(8)]
        try:
            wait_until(lambda: len(kept) > 8)
            getattr(wire, outage)()
            before = len(kept)
            ends_s = time.monotonic() + OUTAGE_S
            while time.monotonic() < ends_s:
                predicted.append(client.post("/predict", content=jpeg()).status_code)
                time.sleep(0.5)
            wire.mend()
            wait_until(lambda: len(kept) > before + 16)  # more than were under way when it began
        finally:
            wire.mend()
            over.set()
        for each in uploading:
            each.result(60)
    assert statuses <= {200, 202, 503}
    assert set(predicted) == {200}
    assert {settle(client, request_id)["status"] for request_id in kept.values()} == {"done"}
    names = Counter(row["true_label"] for row in all_rows(client))
    assert set(names.values()) == {1}
    assert set(kept) <= set(names)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.05)


def all_rows(client: httpx.Client) -> Iterator[dict[str, Any]]:
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/results", params={"limit": 100, "cursor": cursor}).json()
        yield from page["results"]
        cursor = page["next_cursor"]
