"""Many clients at once, on a server that has no room at first."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest

from rehearsal import crowd
from rehearsal.client import Client
from rehearsal.crowd import Crowd, Sender, waits
from rehearsal.watched import CheckFailed

MANY = 30


class Server(ThreadingHTTPServer):
    """statuses: what the first requests are answered with, then 202. seen: bodies that were taken; asked: all that came."""

    request_queue_size, daemon_threads = MANY, True

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.lock, self.seen, self.asked = statuses, threading.Lock(), Counter[bytes](), 0
        self.all_are_here = threading.Barrier(MANY)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.asked += 1
            is_first = self.server.asked <= MANY
            status = self.server.statuses.pop() if self.server.statuses else 202
            self.server.seen[body] += status == 202
        if is_first:
            self.server.all_are_here.wait(20)  # nobody is answered before all have asked
        answer = json.dumps({"request_id": body.decode()}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[int]], Server]]:
    monkeypatch.setattr(crowd, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(crowd, "LONGEST_WAIT_S", 0.05)
    servers: list[Server] = []

    def start(statuses: list[int]) -> Server:
        servers.append(Server(statuses))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def crowd_of(server: Server) -> Crowd:
    senders = [Sender(f"picture {number}".encode()) for number in range(MANY)]
    return Crowd(Client(f"http://127.0.0.1:{server.server_port}/stage", "key"), senders)


def test_all_ask_at_once_and_each_is_taken_once_however_often_it_is_turned_away(serve: Callable[[list[int]], Server]):
    server = serve([429, 503] * 40)
    many = crowd_of(server)
    many.send()
    assert server.seen == Counter(sender.picture for sender in many.senders)
    assert [sender.request_id.encode() for sender in many.senders] == [sender.picture for sender in many.senders]
    assert sum(sender.turned_away for sender in many.senders) == 80


def test_answers_that_were_lost_are_counted_since_their_pictures_may_have_been_taken(serve: Callable[[list[int]], Server]):
    """Else nobody would know how many rows there may be."""
    many = crowd_of(serve([502, 429, 504]))
    many.send()
    assert sum(sender.lost for sender in many.senders) == 2


def test_what_is_wrong_for_good_is_not_asked_again(serve: Callable[[list[int]], Server]):
    server = serve([413])
    with pytest.raises(CheckFailed, match=f"expected {MANY} receipts, got {MANY - 1}: expected 202, got 413"):
        crowd_of(server).send()
    assert server.asked == MANY


def test_who_is_turned_away_waits_longer_each_time_and_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(crowd, "uniform", lambda least, most: most)
    assert list(islice(waits(), 6)) == [1, 2, 4, 8, 8, 8]
