"""How often each key may ask: a bucket of tokens that fills at a steady rate (RFC 6585 names the answer, 429)."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

MOST_HOLDERS = 1_000


class Rates:
    """per_s: requests a second in the long run, 0 for no limit. burst: how many may come at once. Only the event loop uses it."""

    def __init__(self, per_s: int, burst: int, *, now: Callable[[], float] = monotonic) -> None:
        self._per_s, self._burst, self._now = per_s, burst or per_s, now
        self._buckets: dict[bytes, tuple[float, float]] = {}  # tokens, and when there were so many

    def wait_s(self, holder: bytes) -> float:
        """0: this request may go on. Else in how many seconds the next one may."""
        if not self._per_s:
            return 0.0
        now = self._now()
        tokens, then = self._buckets.get(holder, (float(self._burst), now))
        tokens = min(tokens + (now - then) * self._per_s, float(self._burst))
        if tokens < 1:
            return (1 - tokens) / self._per_s
        self._buckets[holder] = tokens - 1, now
        if len(self._buckets) > MOST_HOLDERS:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """A bucket that is full again is as good as none. Of others, the oldest goes."""
        full_s = self._burst / self._per_s
        self._buckets = {holder: (tokens, then) for holder, (tokens, then) in self._buckets.items() if now - then < full_s}
        while len(self._buckets) > MOST_HOLDERS:
            del self._buckets[min(self._buckets, key=lambda holder: self._buckets[holder][1])]
