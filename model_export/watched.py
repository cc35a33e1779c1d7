"""Pixels that tell how many of them were asked for, so that a bar can show how far a step is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Advance = Callable[[int, int], object]  # so many more, of so many in this step


class _Watched:
    """Indexed by an array of indices, as the steps of export do."""

    def __init__(self, pixels: NDArray[np.uint8], total: int, advance: Advance) -> None:
        self._pixels, self._total, self._advance = pixels, total, advance

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, chosen: Any) -> NDArray[np.uint8]:
        found = self._pixels[chosen]
        self._advance(len(found), self._total)
        return found


def watched(pixels: NDArray[np.uint8], total: int, advance: Advance) -> NDArray[np.uint8]:
    """`pixels` (N, ...), to be read by rows; each reading is told to `advance` with `total`, what the step will read in all."""
    return cast("NDArray[np.uint8]", _Watched(pixels, total, advance))
