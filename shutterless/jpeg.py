"""The header of a plain JPEG. Pillow's plugin takes longer to read one than libjpeg to decode the 64x64 pixels behind it."""

from __future__ import annotations

_PASSED_OVER = frozenset((0xC4, 0xDB, 0xDD, 0xE0, 0xFE))  # tables, restart interval, JFIF, comment: they are libjpeg's
_JFIF, _LEAST_JFIF = 0xE0, 16  # Pillow refuses shorter ones
_FRAME = 0xC0  # baseline; what is progressive can have scans without end, and takes long
_SCAN = 0xDA
_MAX_SEGMENTS = 64
_THREE_OF_8_BITS = (8, 3)


def plain_size(picture: bytes) -> tuple[int, int] | None:
    """Width and height of a baseline JPEG of three 8-bit components, whose header has nothing that changes how it is shown: no
    EXIF, no Adobe segment. None for all others, and for what is no JPEG or a broken one. Layout: ITU-T T.81, annex B."""
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
            return size if size and all(size) else None
        elif marker not in _PASSED_OVER or (marker == _JFIF and length < _LEAST_JFIF):
            return None
        at += 2 + length
    return None
