"""Whether a client is alone with the server."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

COMPANY_S = 0.05  # who asked so lately may ask again at any moment


class Solitude:
    """Who asks, and who asked before. Whether others wait cannot be seen on the event loop while it answers one of them: their
    requests are still in their sockets. Only the event loop uses it."""

    def __init__(self, *, now: Callable[[], float] = monotonic) -> None:
        self._now = now
        self._who: object = None
        self._at = -COMPANY_S

    def asked(self, who: object) -> bool:
        """Note a request of this connection; True where no other asked within the last COMPANY_S."""
        now = self._now()
        is_alone = who == self._who or now - self._at >= COMPANY_S
        self._who, self._at = who, now
        return is_alone
