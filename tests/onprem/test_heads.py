import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from onprem.heads import MAX_HEAD_BYTES


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    return received


def answer_to(url: str, sent: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem that raw bytes are answered with, before the connection is closed."""
    with connected(url) as connection:
        connection.sendall(sent)
        received = all_of(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("endless", [b"GET /" + b"a" * 300_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000,
                                     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000], ids=["address", "header", "headers"])
def test_a_head_that_goes_on_is_refused_and_the_server_answers_others(start, endless: bytes) -> None:
    url = start().url()
    with connected(url) as connection:
        connection.sendall(endless[: MAX_HEAD_BYTES + 1])
        head = connection.recv(65_536)
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in head
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"])
def test_what_is_not_http_is_told_so_by_a_problem(start, sent: bytes) -> None:
    status, said = answer_to(start().url(), sent)
    assert status == said["status"] == 400
    assert "HTTP library" in said["detail"]


def test_many_requests_over_one_connection_are_not_counted_as_one_head(start) -> None:
    with httpx.Client(base_url=start().url()) as client:
        for _ in range(100):
            assert client.get("/health", headers={"x-padding": "a" * 2_000}).status_code == 200


@pytest.fixture
def hasty(open_door, monkeypatch) -> str:
    """The address of a server that waits half a second for a head."""
    monkeypatch.setattr("onprem.heads.HEAD_S", 0.5)
    return str(open_door().base_url).rstrip("/")


WHOLE = b"GET /models HTTP/1.1\r\nHost: door\r\n\r\n"


@pytest.mark.parametrize("before", [b"", WHOLE], ids=["first", "second"])
def test_a_head_that_never_ends_is_refused_however_it_trickles_in(hasty, before: bytes) -> None:
    with connected(hasty) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        with contextlib.suppress(ConnectionError):
            for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 280:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    assert b"HTTP/1.1 408 " in connection.recv(65_536)
                    return
                connection.settimeout(30)
    raise AssertionError("it was taken for 30 s")


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(hasty) -> None:
    with connected(hasty) as connection:
        assert all_of(connection) == b""


def test_only_the_head_has_to_be_there_in_that_time(hasty, jpeg) -> None:
    picture = jpeg()
    with connected(hasty) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: door\r\nConnection: close\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(picture))
        time.sleep(1)
        connection.sendall(picture)
        assert all_of(connection).startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_is_kept_open_between_requests_is_not_waiting_for_a_head(hasty) -> None:
    with httpx.Client(base_url=hasty) as client:
        first = client.get("/models")
        time.sleep(1)
        assert client.get("/models").status_code == first.status_code == 200
        assert client.get("/models").extensions["network_stream"] is first.extensions["network_stream"]


def test_a_thousand_idle_connections_keep_nobody_out(start) -> None:
    url = start(SHUTTERLESS_MAX_CONNECTIONS=900).url()
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connected(url))
        for _ in range(5):
            assert httpx.get(f"{url}/health", timeout=30).status_code == 200


def test_past_the_limit_busy_connections_stay_and_new_ones_are_told_to_come_back(start, jpeg) -> None:
    url, picture = start(SHUTTERLESS_MAX_CONNECTIONS=2).url(), jpeg()
    head = b"POST /predict HTTP/1.1\r\nHost: door\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(picture)
    with connected(url) as first, connected(url) as second:
        for busy in (first, second):
            busy.sendall(head + picture[:1])
        time.sleep(0.5)  # both heads are read
        with connected(url) as third:
            received = all_of(third)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in received
        for busy in (first, second):
            busy.sendall(picture[1:])
            assert all_of(busy).startswith(b"HTTP/1.1 200 ")
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.fixture
def crowded(open_door, monkeypatch) -> Callable[..., str]:
    """`crowded(2, young_head_s=0.1)`: the address of a server that takes two connections, and is patient with a head for so long
    while it has them."""
    def crowded(max_connections: int, *, young_head_s: float) -> str:
        monkeypatch.setattr("onprem.heads.BoundedHeads.max_connections", max_connections)
        monkeypatch.setattr("onprem.heads.YOUNG_HEAD_S", young_head_s)
        return str(open_door().base_url).rstrip("/")
    return crowded


def test_past_the_limit_the_slowest_head_makes_room(crowded) -> None:
    url = crowded(2, young_head_s=0.1)
    with connected(url) as slowest, connected(url) as slow:
        for half in (slowest, slow):
            half.sendall(WHOLE[:20])
            time.sleep(0.5)  # it is read, and no longer young
        assert httpx.get(f"{url}/health").status_code == 200
        assert all_of(slowest).startswith(b"HTTP/1.1 408 ")
        slow.sendall(WHOLE[20:])
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200 "), "one that makes room is enough"


def test_past_the_limit_a_new_connection_stays_before_a_slow_head(crowded) -> None:
    url = crowded(2, young_head_s=0.1)
    with connected(url) as slow:
        slow.sendall(WHOLE[:20])
        time.sleep(0.5)  # it is read, and no longer young
        with connected(url) as new:
            time.sleep(0.2)
            assert httpx.get(f"{url}/health").status_code == 200
            assert all_of(slow).startswith(b"HTTP/1.1 408 ")
            new.sendall(WHOLE)
            assert new.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_past_the_limit_a_young_head_stays(crowded) -> None:
    url = crowded(1, young_head_s=60)
    with connected(url) as young:
        young.sendall(WHOLE[:20])
        time.sleep(0.5)
        assert httpx.get(f"{url}/health").status_code == 503
        young.sendall(WHOLE[20:])
        assert young.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_past_the_limit_a_head_is_as_old_as_its_first_bytes(crowded) -> None:
    url = crowded(1, young_head_s=1)
    with connected(url) as kept:
        kept.sendall(WHOLE)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.5)
        kept.sendall(WHOLE[:20])
        time.sleep(0.2)
        assert httpx.get(f"{url}/health").status_code == 503
        kept.sendall(WHOLE[20:])
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_past_the_limit_who_sends_a_body_is_no_slow_head(crowded, jpeg) -> None:
    url, picture = crowded(1, young_head_s=0), jpeg()
    with connected(url) as sending:
        sending.sendall(b"POST /predict HTTP/1.1\r\nHost: door\r\nContent-Length: %d\r\n\r\n" % len(picture) + picture[:9])
        time.sleep(0.5)
        assert httpx.get(f"{url}/health").status_code == 503
        sending.sendall(picture[9:])
        assert sending.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_who_does_not_read_an_answer_is_hung_up_on(open_door, draw, encode, monkeypatch) -> None:
    monkeypatch.setattr("onprem.heads.READ_S", 0.3)
    client = open_door()
    large = encode(draw((3000, 2000)), "BMP")  # 18 MB, more than the system takes for both sides
    request_id = client.post("/upload", content=large).json()["request_id"]
    with connected(str(client.base_url).rstrip("/")) as lazy:
        lazy.sendall(f"GET /results/{request_id}/image HTTP/1.1\r\nHost: door\r\n\r\n".encode())
        time.sleep(3)
        received = b""
        with contextlib.suppress(ConnectionError):
            received = all_of(lazy)
        assert len(received) < len(large)
    assert client.get(f"/results/{request_id}/image").content == large


def test_past_the_limit_who_leaves_the_end_of_an_answer_unread_makes_room(open_door, draw, encode, monkeypatch) -> None:
    monkeypatch.setattr("onprem.heads.READ_S", 0.3)
    monkeypatch.setattr("onprem.heads.BoundedHeads.max_connections", 1)
    client = open_door()
    client.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # else the system takes it all
    picture = encode(draw((100, 100)), "BMP")  # less than what makes the server wait for a reader
    request_id, url = client.post("/upload", content=picture).json()["request_id"], str(client.base_url).rstrip("/")
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        lazy.connect((client.base_url.host, client.base_url.port))
        lazy.sendall(f"GET /results/{request_id}/image HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n".encode())
        time.sleep(1)
        assert httpx.get(f"{url}/health").status_code == 200


OFFER = (b"POST /predict HTTP/1.1\r\nHost: door\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABk\r\n")


def test_who_offers_another_protocol_with_a_picture_is_answered_in_this_one(start, jpeg) -> None:
    """As curl --http2 and Java's HttpClient do."""
    picture = jpeg("green")
    with connected(start().url()) as connection:
        for _ in range(2):
            connection.sendall(OFFER + b"Content-Length: %d\r\n\r\n" % len(picture) + picture)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b'"label":"green"' in answer


def test_an_offer_that_comes_in_pieces_ends_the_connection_before_a_body_is_taken_for_a_request(start) -> None:
    body = b"GET /health HTTP/1.1\r\nHost: door\r\n\r\n"
    at = OFFER.index(b"grade: h2c")
    with connected(start().url()) as connection:
        connection.sendall(OFFER[:at])
        time.sleep(0.3)
        connection.sendall(OFFER[at:] + b"Content-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.3)
        with contextlib.suppress(OSError):  # it is closed
            connection.sendall(body)
        received = all_of(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
