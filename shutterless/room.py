"""Room in memory for pictures that are being decoded, so that many large ones at once do not end the process."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
MMAP_BYTES, KEPT_BYTES = 4 * 1024 * 1024, 8 * 1024 * 1024


def return_freed_blocks() -> None:
    """Let glibc give each large block back when it is freed, and keep KEPT_BYTES a heap of small ones.

    It raises its threshold with the first large block, and Pillow's, 16 MB each, then stay in the heap: 1.6 GB instead of 0.8
    after some large pictures at once. What it gives back of small pictures, up to a megapixel, the kernel has to fill with
    zeros for the next one: that is a fifth of decoding and resizing it.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
            mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


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
