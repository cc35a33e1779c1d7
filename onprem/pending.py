"""The durable queue within bounds: how many rows may wait in the database for their answer, and for their picture, and how many
of these one client may announce."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from threading import Lock
from time import monotonic

from shutterless.errors import Overloaded

LOOK_S = 1.0  # between two counts; what came since the last one is added to it
LOOK_AGAIN_S = 0.05  # before somebody is sent away
MOST_ANNOUNCED = 1_000  # whoever takes work passes over each of them
WAIT = ("{:,} uploads wait for their answers already. Send this one again later, or send the picture to /predict, which answers "
        "at once.")
DO_NOT_COME = "{:,} announced pictures have not come yet. Announce this one again later, or send it to /upload-image."
SHARE = ("Of the pictures that you announced, {:,} have not come yet, and the places that are left are for others. Send some of "
         "them, then announce this one again, or send it to /upload-image.")


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
        self._look_where_due()
        with self._lock:
            self._take()

    def _take(self, held: int = 0) -> None:
        """held: places that are this client's already; it has to leave as many free. Whoever calls it has the lock."""
        if self._waiting >= self._most:
            raise QueueFull(self._full.format(self._most))
        if self._waiting + held >= self._most:
            raise QueueFull(SHARE.format(held))
        self._waiting += 1

    def _look_where_due(self, held: int = 0) -> None:
        with self._lock:
            after_s = LOOK_AGAIN_S if self._waiting + held >= self._most else LOOK_S
            is_due = self._now() - self._counted_at >= after_s
        if is_due and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()

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


class Announced(Pending):
    """Those that wait for their picture. Whoever holds a key has at most half of the places that the others leave, so that nobody
    can take all that are left.

    expected: request_ids of the rows that wait so, of at most so many. Those that another server let in, or this one before it
    was started anew, are counted, and are nobody's.
    """

    def __init__(self, most: int, expected: Callable[[int], Collection[str]], *, now: Callable[[], float] = monotonic) -> None:
        super().__init__(most, self._count_and_forget, full=DO_NOT_COME, now=now)
        self._expected = expected
        self._holders: dict[str, bytes] = {}  # of each row, until it waits no longer
        self._unwritten: set[str] = set()  # of these, what is not in the database yet

    @contextmanager
    def place(self, request_id: str, holder: bytes | None) -> Iterator[None]:
        """For one more, while its row is written. holder: whose it is; None where no key is asked for, and all is one client's.
        Raises as `admit` does."""
        with self._lock:
            held = self._held_by(holder)
        self._look_where_due(held)
        with self._lock:
            self._take(self._held_by(holder))
            if holder is not None:
                self._holders[request_id] = holder
                self._unwritten.add(request_id)
        try:
            yield
        finally:
            with self._lock:
                self._unwritten.discard(request_id)

    def _held_by(self, holder: bytes | None) -> int:
        return sum(other == holder for other in self._holders.values())

    def _count_and_forget(self, most: int) -> int:
        with self._lock:
            written = self._holders.keys() - self._unwritten
        expected = self._expected(most)
        if len(expected) < most:  # else there may be more
            with self._lock:
                for request_id in written.difference(expected):
                    del self._holders[request_id]
        return len(expected)
