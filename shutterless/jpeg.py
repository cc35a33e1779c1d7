"""What a JPEG's markers tell before it is decoded (ITU-T T.81, annex B): whether it is a plain one, and how often its pixels
would be gone over."""

from __future__ import annotations

import re

_PASSED_OVER = frozenset((0xC4, 0xDB, 0xDD, 0xE0, 0xFE))  # tables, restart interval, JFIF, comment: they are libjpeg's
_JFIF, _LEAST_JFIF = 0xE0, 16  # Pillow refuses shorter ones
_FRAME = 0xC0  # baseline; what is progressive can have scans without end, and takes long
_SCAN, _END = 0xDA, 0xD9
_SEQUENTIAL = frozenset((0xC0, 0xC1))
_ALONE = frozenset((0x01, 0xD8))  # markers without a segment
_MARKER = re.compile(rb"\xff+[\x01-\xcf\xd8-\xfe]")  # FF 00 and restart markers are a part of the pixels
_MAX_SEGMENTS = 64
_THREE_OF_8_BITS = (8, 3)


def plain_size(picture: bytes) -> tuple[int, int] | None:
    """Width and height of a baseline JPEG of three 8-bit components, whose header has nothing that changes how it is shown: no
    EXIF, no Adobe segment, and whose pixels are in one scan. None for all others, and for what is no JPEG or a broken one.

    Pillow's plugin takes longer to read such a header than libjpeg to decode the 64x64 pixels behind it.
    """
    if not picture.startswith(b"\xff\xd8"):
        return None
    size, at = None, 2
    for _ in range(_MAX_SEGMENTS):
        head = picture[at:at + 10]
        if len(head) < 10 or head[0] != 0xFF:
            return None
        marker, length = head[1], head[2] << 8 | head[3]
        if marker == _FRAME and size is None and (head[4], head[9]) == _THREE_OF_8_BITS:
            size = head[7] << 8 | head[8], head[5] << 8 | head[6]
        elif marker == _SCAN:
            return size if size and all(size) and head[4] == _THREE_OF_8_BITS[1] else None
        elif marker not in _PASSED_OVER or (marker == _JFIF and length < _LEAST_JFIF):
            return None
        at += 2 + length
    return None


def has_more_scans(picture: bytes, most: int) -> bool:
    """Whether more than `most` scans follow each other. What comes behind the picture, as phones put films there, is not looked
    at; nor are the pixels of a picture in one scan."""
    at, scans, components = 2, 0, b""
    while found := _MARKER.search(picture, at):
        marker, at = found[0][-1], found.end()
        if marker in _SEQUENTIAL:
            components = picture[at + 7:at + 8]
        if marker == _END or (marker == _SCAN and components and picture[at + 2:at + 3] == components):
            return False
        scans += marker == _SCAN
        if scans > most:
            return True
        if marker not in _ALONE:
            at += int.from_bytes(picture[at:at + 2], "big")
    return False
