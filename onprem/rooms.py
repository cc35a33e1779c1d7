"""What bodies on their way share, places and bytes, and who gives it back when others find none: whoever comes slowly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import HTTPException

from shutterless.errors import Overloaded

GRACE_S = 20.0  # Apache's mod_reqtimeout defaults to the same grace, with 500 bytes/s after it
MIN_BYTES_PER_S = 10_000
FAIR_BYTES_PER_S, FAIR_S = 50_000, 20.0  # who is so far behind so much is welcome as long as there is room for others


class Pace:
    """How far behind a steady speed somebody is. What came faster earns no rest: else bytes that came at once could be held for
    long with a few more now and then."""

    def __init__(self, bytes_per_s: int, now_s: float) -> None:
        self._bytes_per_s, self.at_s, self._behind_s = bytes_per_s, now_s, 0.0

    def came(self, count: int, now_s: float) -> None:
        self._behind_s = max(self._behind_s + now_s - self.at_s - count / self._bytes_per_s, 0.0)
        self.at_s = now_s

    def ends_s(self, grace_s: float) -> float:
        """When it is so far behind, if nothing comes."""
        return self.at_s - self._behind_s + grace_s


class Body:
    """Of one request: how fast it comes, and what it holds of a Room."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._least, self._fair = Pace(MIN_BYTES_PER_S, self._clock()), Pace(FAIR_BYTES_PER_S, self._clock())
        self.held_bytes, self.has_place, self._gave_way = 0, False, False
        self.patience: asyncio.Timeout | None = None  # of who waits for it

    @property
    def ends_s(self) -> float:
        """How long to wait for more of it, by the event loop's clock."""
        return self._least.ends_s(GRACE_S)

    @property
    def slow_s(self) -> float:
        """Since when it has to give way to others; less than 0: it need not."""
        return self._clock() - self._fair.ends_s(FAIR_S)

    def came(self, count: int) -> None:
        """Raises Overloaded when it gave way meanwhile."""
        self.check()
        self._least.came(count, self._clock())
        self._fair.came(count, self._clock())
        if self.patience is not None:
            self.patience.reschedule(self.ends_s)

    def resume(self) -> None:
        """What passed since something came was not the client's time. Raises Overloaded when it gave way meanwhile."""
        self.check()
        self._least.at_s = self._fair.at_s = self._clock()

    def give_way(self) -> None:
        self._gave_way = True
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(0.0)

    def check(self) -> None:
        """Raises Overloaded when it gave way."""
        if self._gave_way:
            raise Overloaded("Others needed the room that this request took so slowly. Send it again in a second, over a faster "
                             "connection.")

    def too_slow(self) -> HTTPException:
        """For who waited for it in vain. Raises Overloaded when it gave way."""
        self.check()
        return HTTPException(408, "The body came too slowly. Send it again, over a faster connection.")


class Room:
    """So many places, so many bytes. Only the event loop uses it. coming: who is still on the way."""

    def __init__(self, *, max_requests: int, max_held_bytes: int) -> None:
        self.max_requests, self.max_held_bytes = max_requests, max_held_bytes
        self.requests, self.held_bytes = 0, 0
        self.coming: set[Body] = set()

    def expect_place(self) -> None:
        """Raises Overloaded."""
        self._make_room(lambda: self.requests < self.max_requests, lambda body: body.has_place,
                        "The server has its hands full of requests. Send this one again in a second.")

    def take_place(self, body: Body) -> None:
        """Raises Overloaded."""
        self.expect_place()
        self.requests += 1
        body.has_place = True

    def expect_bytes(self, count: int) -> None:
        """Raises Overloaded."""
        self._make_room(lambda: self.held_bytes + count <= self.max_held_bytes, lambda body: body.held_bytes > 0,
                        "The server holds as many bytes as it may. Send this request again in a second.")

    def hold(self, body: Body, count: int) -> None:
        """Raises Overloaded."""
        self.expect_bytes(count)
        self.held_bytes += count
        body.held_bytes += count

    def arrived(self, body: Body) -> None:
        """It is whole, and gives way to nobody any more. Raises Overloaded when it did."""
        self.coming.discard(body)
        body.check()

    def release(self, body: Body) -> None:
        """All that it holds."""
        self.coming.discard(body)
        self.requests -= body.has_place
        self.held_bytes -= body.held_bytes
        body.held_bytes, body.has_place = 0, False

    def take_whole(self, count: int) -> None:
        """A place, and room for so many bytes, of a body that is here; `release_whole` gives both back. Raises Overloaded."""
        self.expect_place()
        self.expect_bytes(count)
        self.requests += 1
        self.held_bytes += count

    def release_whole(self, count: int) -> None:
        self.requests -= 1
        self.held_bytes -= count

    def _make_room(self, is_enough: Callable[[], bool], holds: Callable[[Body], bool], refusal: str) -> None:
        """Who is furthest behind gives way first. Raises Overloaded where all are as fast as they should be."""
        if is_enough():
            return
        slow = (body for body in self.coming if body.slow_s > 0 and holds(body))
        for body in sorted(slow, key=lambda body: body.slow_s, reverse=True):
            self.release(body)
            body.give_way()
            if is_enough():
                return
        raise Overloaded(refusal)
