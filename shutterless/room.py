"""Room in memory for pictures that are being decoded, so that many large ones at once do not end the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """So many pixels may be held at the same time. Who needs more than is free waits, and nobody overtakes."""

    def __init__(self, pixels: int) -> None:
        self._pixels = self._free = pixels
        self._turn = threading.Lock()
        self._left = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Hold room for `pixels`; all of it for a picture that is larger than the room."""
        pixels = min(pixels, self._pixels)
        with self._turn, self._left:
            self._left.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._left:
                self._free += pixels
                self._left.notify()
