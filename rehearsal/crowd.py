"""Many clients at the same moment, each on a connection of its own, each as patient as a client should be."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from random import uniform
from urllib.parse import urlsplit

from rehearsal.client import ANSWER_S, BUSY, JPEG, LOST, Client
from rehearsal.watched import CheckFailed

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 8.0
PATIENCE_S = 180.0


@dataclass
class Sender:
    """One client, one picture. request_id: of its receipt. turned_away: how often it came in vain; lost: how often of
    these it may have been taken all the same. failure: why it gave up."""

    picture: bytes
    request_id: str = ""
    turned_away: int = 0
    lost: int = 0
    failure: str = ""


@dataclass
class Crowd:
    """All connect first, then send at once. Ends early where the rehearsal is interrupted."""

    client: Client
    senders: Sequence[Sender]
    _gone: threading.Event = field(default_factory=threading.Event)

    def send(self) -> None:
        """Until each has its receipt. Raises CheckFailed with the first reason why one has none."""
        start = threading.Barrier(len(self.senders))
        threads = [threading.Thread(target=self._work, args=(sender, start), daemon=True) for sender in self.senders]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            self._gone.set()  # an interruption waits for none of them
            start.abort()
        failures = [sender.failure for sender in self.senders if sender.failure]
        if failures:
            raise CheckFailed(f"expected {len(self.senders)} receipts, got {len(self.senders) - len(failures)}: {failures[0]}")

    def _work(self, sender: Sender, start: threading.Barrier) -> None:
        address = urlsplit(self.client.base)
        connection = HTTPConnection(address.hostname or "", address.port or 80, timeout=ANSWER_S)
        try:
            connection.connect()
            start.wait(ANSWER_S)
            self._send(sender, connection, f"{address.path}/upload-image")
        except (OSError, HTTPException, ValueError, KeyError, threading.BrokenBarrierError) as error:
            sender.failure = f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def _send(self, sender: Sender, connection: HTTPConnection, path: str) -> None:
        headers = {"Content-Type": JPEG, "x-api-key": self.client.key or ""}
        deadline = time.monotonic() + PATIENCE_S
        for wait_s in waits():
            connection.request("POST", path, body=sender.picture, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 202:
                sender.request_id = json.loads(body)["request_id"]
                return
            if answer.status not in BUSY or time.monotonic() > deadline:
                sender.failure = f"expected 202, got {answer.status} {body[:300]!r} after {sender.turned_away} attempts"
                return
            sender.turned_away += 1
            sender.lost += answer.status in LOST
            if self._gone.wait(max(wait_s, float(answer.headers.get("Retry-After", 0)))):
                return


def waits() -> Iterator[float]:
    """Seconds to wait after each refusal, where the answer asks for no more: longer each time, and no two clients the same."""
    longest = FIRST_WAIT_S
    while True:
        yield uniform(FIRST_WAIT_S / 2, longest)  # noqa: S311  no secret
        longest = min(2 * longest, LONGEST_WAIT_S)
