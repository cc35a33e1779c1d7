"""Small requests to POST /predict without a query go past ASGI: nobody may be able to tell by the answer."""

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from onprem.express import Express, _Exchange
from onprem.predictions import QUICK_BYTES
from shutterless.classifier import Classifier, Prepared

KEY, ORIGIN = {"x-api-key": "a-key"}, {"origin": "http://localhost:5173"}
VARYING = ("x-request-id", "server-timing", "date", "connection")  # the last: whether the body was there when it was refused
REQUESTS: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
    "a picture": lambda picture: {"content": picture, "headers": KEY | ORIGIN},
    "a plain picture": lambda picture: {"content": picture, "headers": KEY},
    "no key, and no page": lambda picture: {"content": picture},
    "nothing, from no page": lambda picture: {"content": b"", "headers": KEY},
    "an empty origin": lambda picture: {"content": picture, "headers": KEY | {"origin": ""}},
    "a form": lambda picture: {"files": {"file": ("tile.jpg", picture)}, "headers": KEY},
    "no key": lambda picture: {"content": picture, "headers": ORIGIN},
    "nothing": lambda picture: {"content": b"", "headers": KEY | ORIGIN},
    "no picture": lambda picture: {"content": b"junk", "headers": KEY},
    "a broken form": lambda picture: {"content": b"--x", "headers": KEY | {"content-type": "multipart/form-data; boundary=x"}},
    "too large": lambda picture: {"content": bytes(100_001), "headers": KEY | ORIGIN},
    "no model": lambda picture: {"files": {"file": ("tile.jpg", picture)}, "data": {"model": "nobody"}, "headers": KEY},
}


@pytest.fixture
def client(open_door) -> httpx.Client:
    opened: httpx.Client = open_door(api_keys=("a-key",), max_bytes=100_000, cors_origins=(ORIGIN["origin"],))
    return opened


def told(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], Any]:
    """All that is the same each time."""
    body = answer.json()
    for name in ("timings", "cold_start", "request_id"):
        body.pop(name, None)
    headers = [(name, value) for name, value in answer.headers.items() if name not in (*VARYING, "content-length")]
    return answer.status_code, headers, body


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS.keys())
def test_both_ways_answer_alike(request_of, client, jpeg, taken) -> None:
    request = request_of(jpeg())
    short, long = (client.post(path, **request) for path in ("/predict", "/predict?unknown=1"))
    assert told(short) == told(long)
    is_large = len(request.get("content", b"")) > QUICK_BYTES
    assert len(taken) == (not is_large and "origin" not in request.get("headers", {}))


def test_both_ways_send_away_alike_who_asks_too_often(open_door, jpeg, taken) -> None:
    told_of = []
    for path in ("/predict", "/predict?unknown=1"):
        client = open_door(rate_per_s=1, rate_burst=1)
        answers = [client.post(path, content=jpeg()) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        told_of.append(told(answers[1]))
    assert told_of[0] == told_of[1]
    assert len(taken) == 2


def test_an_answer_to_a_connection_that_closes_is_over_and_nothing_of_it_stays(client, jpeg, monkeypatch) -> None:
    ends: list[tuple[bool, Any]] = []
    end = _Exchange._end

    def closing(self: _Exchange, *arguments: Any) -> None:
        self._transport.close()
        end(self, *arguments)
        ends.append((self._cycle.response_complete, getattr(self._cycle.on_response, "__self__", None)))

    monkeypatch.setattr(_Exchange, "_end", closing)
    body = jpeg()
    with connected(client) as connection:
        connection.sendall(head_of(body) + body)
        assert connection.recv(1) == b""
    assert ends == [(True, None)]
    assert client.door.intake.requests == client.door.tallies.in_flight == 0


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """The lengths of all bodies that went past ASGI. One that comes after its head is waited for, however slow the machine is."""
    monkeypatch.setattr("onprem.heads.HELD_S", 30.0)
    lengths: list[int] = []
    answer = Express.__call__

    def noted(self: Express, cycle: Any, *rest: Any) -> None:
        lengths.append(len(cycle.body))
        answer(self, cycle, *rest)

    monkeypatch.setattr(Express, "__call__", noted)
    return lengths


def head_of(body: bytes, *headers: str, version: str = "1.1", path: str = "/predict") -> bytes:
    lines = (f"POST {path} HTTP/{version}", "host: door", "x-api-key: a-key", f"content-length: {len(body)}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), timeout=30)


def answer_from(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1)
    head = received[:-4].lower()
    length = next(int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head, body


def test_small_bodies_take_the_short_way_and_large_ones_the_long_one(client, jpeg, taken) -> None:
    small, large = jpeg(), jpeg().ljust(QUICK_BYTES + 1, b"\0")
    assert [client.post("/predict", content=body, headers=KEY).json()["label"] for body in (small, large)] == ["red", "red"]
    client.post("/predict", content=small, headers=KEY | ORIGIN)
    client.post("/predict?top=1", content=small, headers=KEY)
    assert taken == [len(small)]


@pytest.mark.parametrize(("held_s", "count"), [(30.0, 1), (0.05, 0)])
def test_a_body_that_comes_after_its_head_is_waited_for_a_moment(client, jpeg, taken, monkeypatch, held_s, count) -> None:
    monkeypatch.setattr("onprem.heads.HELD_S", held_s)
    body = jpeg()
    with connected(client) as connection:
        connection.sendall(head_of(body))
        time.sleep(0.2)
        connection.sendall(body[:100])
        connection.sendall(body[100:])
        head, answer = answer_from(connection)
    assert head.startswith(b"http/1.1 200")
    assert b'"label":"red"' in answer
    assert len(taken) == count


def test_a_body_that_never_comes_ends_as_on_the_long_way(client, taken, monkeypatch) -> None:
    monkeypatch.setattr("onprem.heads.HELD_S", 0.05)
    monkeypatch.setattr("onprem.rooms.GRACE_S", 0.3)
    with connected(client) as connection:
        connection.sendall(head_of(b"abc") + b"ab")
        assert connection.recv(12) == b"HTTP/1.1 408"
    assert taken == []


def test_who_leaves_before_the_body_is_counted_as_gone(client, jpeg) -> None:
    with connected(client) as connection:
        connection.sendall(head_of(jpeg()))
    line = 'shutterless_http_requests_total{code="499",method="POST",route="/predict"} 1.0'
    deadline_s = time.monotonic() + 10
    while line not in (told := client.get("/metrics", headers=KEY).text):
        assert time.monotonic() < deadline_s, told
        time.sleep(0.02)


def test_requests_that_come_at_once_are_answered_in_order(client, jpeg) -> None:
    red, blue = jpeg("red"), jpeg("blue")
    with connected(client) as connection:
        connection.sendall(head_of(red) + red + head_of(b"?", path="/nope") + b"?" + head_of(blue) + blue)
        answers = [answer_from(connection) for _ in range(3)]
    assert [head.split()[1] for head, _ in answers] == [b"200", b"404", b"200"]
    assert b'"label":"red"' in answers[0][1]
    assert b'"label":"blue"' in answers[2][1]


@pytest.mark.parametrize(("version", "headers"), [("1.1", ["connection: close"]), ("1.0", [])])
def test_a_connection_is_closed_after_the_answer_where_the_client_says_so(client, jpeg, taken, version, headers) -> None:
    body = jpeg()
    with connected(client) as connection:
        connection.sendall(head_of(body, *headers, version=version) + body)
        head, answer = answer_from(connection)
        assert connection.recv(1) == b""
    assert b"connection: close" in head
    assert b'"label":"red"' in answer
    assert len(taken) == 1


def test_a_client_that_waits_for_leave_to_send_gets_it(client, jpeg) -> None:
    body = jpeg()
    with connected(client) as connection:
        connection.sendall(head_of(body, "expect: 100-continue"))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert b'"label":"red"' in answer_from(connection)[1]


@pytest.mark.parametrize("place", ["onprem.express.ask", "onprem.express.told"])
def test_a_failure_of_ours_is_logged_with_its_trace_and_told_as_a_problem(client, jpeg, monkeypatch, caplog, place: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake")

    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        answer = client.post("/predict", content=jpeg(), headers=KEY)
    assert answer.status_code == 500
    assert "a mistake" not in answer.text
    assert [record.levelno for record in caplog.records if record.exc_info and answer.json()["request_id"] in record.message] == [
        logging.ERROR]
    assert client.door.intake.requests == client.door.intake.held_bytes == client.door.tallies.in_flight == 0


def test_many_clients_and_some_who_leave_are_all_counted_and_nothing_is_held(client, jpeg, taken) -> None:
    body = jpeg()
    connections = [connected(client) for _ in range(24)]
    for connection in connections:
        connection.sendall(head_of(body) + body)
    for connection in connections[::3]:
        connection.close()
    answers = [answer_from(connection)[1] for n, connection in enumerate(connections) if n % 3]
    assert all(b'"label":"red"' in answer for answer in answers)
    for connection in connections:
        connection.close()
    assert client.get("/metrics", headers=KEY).status_code == 200
    assert len(taken) == 24
    deadline_s = time.monotonic() + 10
    while client.door.intake.requests or client.door.intake.held_bytes or client.door.tallies.in_flight:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_who_leaves_with_a_second_request_under_way_leaves_nothing_behind(client, jpeg, monkeypatch, caplog) -> None:
    started, go_on, prepare = threading.Event(), threading.Event(), Classifier.prepare

    def slowly(*arguments: Any) -> Prepared:
        started.set()
        go_on.wait(30)
        return prepare(*arguments)

    monkeypatch.setattr(Classifier, "prepare", slowly)
    client.door.shelf.default.run_s = 1.0  # so that it is not answered on the event loop
    body = jpeg()
    with connected(client) as connection:
        connection.sendall(2 * (head_of(body) + body))
        assert started.wait(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.2)  # the server has seen that it is gone
    go_on.set()
    deadline_s = time.monotonic() + 10
    while client.door.intake.requests or client.door.tallies.in_flight:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert not [record.message for record in caplog.records if record.exc_info]


def test_both_ways_count_alike(client, jpeg) -> None:
    for path in ("/predict", "/predict?unknown=1"):
        client.post(path, content=jpeg(), headers=KEY)
        client.post(path, content=b"junk", headers=KEY)
    metrics = client.get("/metrics", headers=KEY).text
    counts = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in metrics.splitlines()
              if line.startswith("shutterless_http_requests_total") and "/predict" in line}
    assert sorted(map(float, counts.values())) == [2.0, 2.0], counts


@pytest.mark.parametrize(("method", "path", "status"),
                         [("GET", "/predict", 405), ("PUT", "/predict", 405), ("POST", "/predict/", 404)])
def test_other_methods_and_paths_take_the_long_way(method: str, path: str, status: int, client) -> None:
    assert client.request(method, path, headers=KEY).status_code == status
