"""The durable queue within bounds: how many rows may wait in the database for their answer, and for their picture."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

from shutterless.errors import Overloaded

LOOK_S = 1.0  # between two counts; what came since the last one is added to it
LOOK_AGAIN_S = 0.05  # before somebody is sent away
MOST_ANNOUNCED = 1_000  # whoever takes work passes over each of them
WAIT = ("{:,} uploads wait for their answers already. Send this one again later, or send the picture to /predict, which answers "
        "at once.")
DO_NOT_COME = "{:,} announced pictures have not come yet. Announce this one again later, or send it to /upload-image."


class QueueFull(Overloaded):
    """More uploads wait than may."""

    retry_after_s = 10


def most_announced(most: int) -> int:
    """Of so many rows that may wait, how many may be without their picture: few, since to announce costs a client nothing."""
    return min(max(most // 10, 1), MOST_ANNOUNCED)


class Pending:
    """Any thread may use it. count: how many rows wait, `most` where there are more; it may raise Unavailable. full: what is
    told to who comes then.

    Servers that share a database count all of its rows, and of those that came since, their own.
    """

    def __init__(self, most: int, count: Callable[[int], int], *, full: str = WAIT,
                 now: Callable[[], float] = monotonic) -> None:
        self._most, self._count, self._full, self._now = most, count, full, now
        self._looking = Lock()  # held while the database is asked: whoever comes then goes by the number before
        self._lock = Lock()  # guards all below
        self._waiting, self._counted_at = 0, -LOOK_S

    def admit(self) -> None:
        """Let one more wait. Raises QueueFull; and Unavailable where it had to count, and could not."""
        if self._is_due() and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        with self._lock:
            if self._waiting >= self._most:
                raise QueueFull(self._full.format(self._most))
            self._waiting += 1

    def _is_due(self) -> bool:
        with self._lock:
            after_s = LOOK_AGAIN_S if self._waiting >= self._most else LOOK_S
            return self._now() - self._counted_at >= after_s

    def _look(self) -> None:
        with self._lock:
            before = self._waiting
        try:
            counted = self._count(self._most)
            with self._lock:
                self._waiting += counted - before  # and those who came meanwhile
        finally:
            with self._lock:
                self._counted_at = self._now()  # where it failed, too: the next one need not wait for the same failure
