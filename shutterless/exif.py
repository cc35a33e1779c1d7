"""TIFF directories, read without trusting them: EXIF is one, and every TIFF picture begins with one."""

from __future__ import annotations

import struct
from typing import NamedTuple

BYTE, ASCII, SHORT, UNDEFINED = 1, 2, 3, 7
WIDTH, HEIGHT, ORIENTATION, TILE_WIDTH, TILE_HEIGHT = 256, 257, 274, 322, 323
POINTERS = (34665, 34853, 40965)  # to the EXIF, GPS and interoperability directories


class Tag(NamedTuple):
    """One entry: its type, how many values it has, and `value`: the number where a single one fits into the entry,
    else an offset into the block."""

    type: int
    length: int
    value: int


def read_directory(block: bytes, at: int | None = None) -> dict[int, Tag]:
    """The entries of the directory at offset `at` (None: the first) of a TIFF or BigTIFF block, by tag number.

    Never raises: what lies outside of the block is left out. Layout: TIFF 6.0, section 2, and the BigTIFF proposal.
    """
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return {}
    big = 43 in block[2:4]
    word, count_size, pointer = ("Q", 8, 8) if big else ("I", 2, 4)  # bytes
    entry = struct.Struct(f"{order}HH{word}")
    tags = {}
    try:
        if at is None:
            (at,) = struct.unpack_from(order + word, block, pointer)
        at = min(at, len(block))  # an offset beyond the machine's word would be an OverflowError
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), block, at)
        step = entry.size + pointer
        for start in range(at + count_size, min(at + count_size + count * step, len(block)), step):
            number, kind, length = entry.unpack_from(block, start)
            form = {BYTE: "B", SHORT: "H"}.get(kind, word)
            (value,) = struct.unpack_from(order + form, block, start + entry.size)
            tags[number] = Tag(kind, length, value)
    except struct.error:
        pass
    return tags


def orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 when it is absent or broken, as viewers have it."""
    tag = read_directory(exif.removeprefix(b"Exif\0\0")).get(ORIENTATION)
    return tag.value if tag and 1 <= tag.value <= 8 else 1
