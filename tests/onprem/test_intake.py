import asyncio
import contextlib
import select
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from onprem.rooms import Body, Pace
from shutterless.classifier import Classifier

CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"


def send_chunks(connection: socket.socket, count: int) -> None:
    for _ in range(count):
        connection.sendall(CHUNK)


def raw(client: httpx.Client, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which this much of a POST /predict has been sent."""
    address = urlsplit(str(client.base_url))
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode() + body)
    return connection


def status(connection: socket.socket) -> int:
    return int(connection.recv(65_536).split()[1])


def test_a_body_that_announces_too_much_is_refused_before_it_comes(client) -> None:
    for length in (10**9, 10**18):
        with raw(client, f"Content-Length: {length}") as connection:
            assert status(connection) == 413
    with raw(client, f"Content-Length: {10**9}\r\nExpect: 100-continue") as connection:
        assert status(connection) == 413  # not 100: a client that asks first sends nothing


def test_a_client_that_never_stops_sending_is_answered_and_then_hung_up_on(open_door, monkeypatch) -> None:
    monkeypatch.setattr("onprem.lingering.LINGER_BYTES", 1_000_000)
    client = open_door(max_bytes=1000, api_keys=("key",))
    for key, expected in (("key", 413), ("wrong", 403)):
        with raw(client, f"Transfer-Encoding: chunked\r\nX-Api-Key: {key}", CHUNK) as connection:
            send_chunks(connection, 2)
            assert status(connection) == expected  # told at once, though it has not finished
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                send_chunks(connection, 10_000)


def test_a_client_that_sends_all_before_it_reads_still_learns_why_it_was_refused(open_door) -> None:
    client = open_door(max_bytes=1000)
    assert client.post("/predict", content=bytes(50_000_000)).status_code == 413
    assert client.post("/predict", content=(bytes(65_536) for _ in range(500))).status_code == 413
    assert client.get("/predict").status_code == 405


def test_a_body_that_comes_too_slowly_gives_its_place_back(open_door, monkeypatch, jpeg) -> None:
    monkeypatch.setattr("onprem.rooms.GRACE_S", 0.3)
    client = open_door(max_waiting=1)
    with raw(client, "Content-Length: 1000", b"x") as connection:
        assert status(connection) == 408
    assert client.post("/predict", content=jpeg()).status_code == 200


def test_a_client_that_hangs_up_gives_its_place_back(open_door, jpeg, wait_for) -> None:
    client = open_door(max_waiting=1)
    with raw(client, "Content-Length: 1000", b"x"):
        wait_for(lambda: client.door.intake.held_bytes == 1)
    wait_for(lambda: client.door.intake.held_bytes == 0)
    assert client.post("/predict", content=jpeg()).status_code == 200


def test_clients_that_send_slowly_keep_nobody_out(open_door, jpeg, wait_for) -> None:
    client = open_door(max_waiting=2)
    with contextlib.ExitStack() as slow:
        for _ in range(200):
            slow.enter_context(raw(client, "Content-Length: 1000", b"x"))
        wait_for(lambda: client.door.intake.held_bytes == 200)
        assert client.post("/predict", content=jpeg("blue")).json()["label"] == "blue"
        assert client.post("/upload", content=jpeg()).status_code == 200
    wait_for(lambda: client.door.intake.held_bytes == 0)


def test_bytes_that_came_fast_earn_no_long_silence(open_door, jpeg, monkeypatch, wait_for) -> None:
    monkeypatch.setattr("onprem.rooms.GRACE_S", 0.5)
    client = open_door()
    with raw(client, "Content-Length: 2000000", bytes(1_999_999)) as silent:  # at 10,000 bytes/s, 200 s
        wait_for(lambda: client.door.intake.held_bytes > 0)
        assert status(silent) == 408
    wait_for(lambda: client.door.intake.held_bytes == 0)


def test_bytes_that_came_fast_are_not_held_for_long_with_one_now_and_then(open_door, monkeypatch, wait_for) -> None:
    monkeypatch.setattr("onprem.rooms.GRACE_S", 1.0)
    client = open_door()
    with raw(client, "Content-Length: 2000000", bytes(1_999_000)) as dribbling:
        wait_for(lambda: client.door.intake.held_bytes == 1_999_000)
        for _ in range(100):
            dribbling.sendall(b"x")
            if select.select([dribbling], [], [], 0.1)[0]:
                break
        else:
            raise AssertionError("nobody lost patience")
        assert status(dribbling) == 408


def test_who_comes_slowly_gives_way_when_others_find_no_room(open_door, jpeg, monkeypatch, wait_for) -> None:
    client = open_door(max_bytes=100_000)
    intake = client.door.intake
    intake.max_held_bytes = 200_000
    with raw(client, "Content-Length: 200000", bytes(199_000)) as slow:
        wait_for(lambda: intake.held_bytes == 199_000)
        assert client.post("/predict", content=bytes(2000)).status_code == 503, "it is not slow yet"
        monkeypatch.setattr("onprem.rooms.FAIR_S", 0.0)
        assert client.post("/predict", content=jpeg("blue") + bytes(2000)).json()["label"] == "blue"
        assert status(slow) == 503
    wait_for(lambda: intake.held_bytes == 0)


def test_who_finds_no_room_is_not_hurt_by_one_whose_time_is_over_at_the_same_moment() -> None:
    async def both() -> list[dict[str, object]]:
        faults: list[dict[str, object]] = []
        loop, body = asyncio.get_running_loop(), Body()
        loop.set_exception_handler(lambda _, fault: faults.append(fault))

        async def slow() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01) as body.patience:
                    await asyncio.sleep(10)

        waiting = loop.create_task(slow())
        await asyncio.sleep(0)
        loop.call_later(0.02, body.give_way)
        time.sleep(0.05)  # both are due when the loop looks again
        await waiting
        return faults

    assert asyncio.run(both()) == []


def test_who_keeps_a_steady_speed_is_waited_for_and_gives_way_to_nobody() -> None:
    pace = Pace(10, now_s=0.0)
    for second in range(1, 100):
        pace.came(10, second)
        assert pace.ends_s(20) == second + 20
    pace.came(10_000, 100)
    assert pace.ends_s(20) == 120, "what came faster earns no rest"
    pace.came(1, 110)
    pace.came(1, 115)
    assert pace.ends_s(20) == pytest.approx(120.2)


def test_above_max_waiting_requests_are_told_to_come_back(open_door, jpeg, monkeypatch, wait_for) -> None:
    client, busy = open_door(max_waiting=2), threading.Event()
    answers = Classifier.answers
    monkeypatch.setattr(Classifier, "answers", lambda *arguments: busy.wait(30) and answers(*arguments))
    client.door.shelf.default.run_s = 1.0  # not on the event loop
    length = f"Content-Length: {len(jpeg())}"
    with raw(client, length, jpeg()[:-1]) as late, raw(client, length, jpeg()) as first, raw(client, length, jpeg()) as second:
        wait_for(lambda: client.door.intake.requests == 2)
        late.sendall(jpeg()[-1:])
        assert status(late) == 503, "its body was taken, and there is no place for it now"
        answer = client.post("/predict", content=jpeg())
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200
        busy.set()
        assert [status(first), status(second)] == [200, 200]
    wait_for(lambda: client.door.intake.requests == 0)
    assert client.post("/predict", content=jpeg()).status_code == 200


def test_all_bodies_together_stay_within_their_bytes(open_door, jpeg, wait_for) -> None:
    client = open_door(max_bytes=100_000)
    intake = client.door.intake
    intake.max_held_bytes = 200_000
    with raw(client, "Content-Length: 200000", bytes(199_000)):
        wait_for(lambda: intake.held_bytes == 199_000)
        assert client.post("/predict", content=bytes(2000)).status_code == 503
    wait_for(lambda: intake.held_bytes == 0)
    assert client.post("/predict", content=jpeg()).status_code == 200


def test_many_clients_at_once_all_get_the_right_answer(client, jpeg) -> None:
    labels = []

    def ask(colour: str) -> None:
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            labels.extend((colour, own.post("/predict", content=jpeg(colour)).json()["label"]) for _ in range(10))

    threads = [threading.Thread(target=ask, args=(colour,)) for colour in ("red", "green", "blue") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(labels) == 90
    assert all(asked == answered for asked, answered in labels)
