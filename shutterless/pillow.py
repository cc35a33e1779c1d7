"""Pillow, kept on a leash: one plugin per format, no warnings, no exception but ours, no header without end."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile

from shutterless.errors import BadPicture, Overloaded, TooLarge
from shutterless.exif import (
    ASCII,
    BYTE,
    HEIGHT,
    POINTERS,
    TILE_HEIGHT,
    TILE_WIDTH,
    UNDEFINED,
    WIDTH,
    read_directory,
)
from shutterless.formats import BMP, GIF, JPEG, PNG, TIFF, WEBP, PictureFormat
from shutterless.jpeg import has_more_scans

SMALL_BYTES = 256 * 1024  # a file that cannot hold enough pieces to do harm: its reads are not counted
MAX_READS = 200_000  # a phone's photo takes some hundred, a TIFF of 65,536 strips twice that number
MAX_TAG_VALUES = 65_536
MAX_SCANS = 100  # of a JPEG; progressive ones have some ten, and libjpeg goes over all pixels for each
MAX_TILE_PIXELS = 2048 * 2048  # or the whole picture, if that is more

_PLUGINS = {JPEG: "Jpeg", PNG: "Png", WEBP: "WebP", GIF: "Gif", BMP: "Bmp", TIFF: "Tiff"}
_thread = threading.local()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else what it logs of a bad TIFF lands on stderr


def open_header(picture: bytes, found: PictureFormat) -> ImageFile:
    """Read the header with the one plugin that fits. Call it within `refusing`."""
    if found is TIFF:
        _check_tiff(picture)
    if found is JPEG:
        _check_scans(picture)
    return _plugin(found)(io.BytesIO(picture) if len(picture) <= SMALL_BYTES else _CountedReads(picture))


@contextmanager
def refusing(found: PictureFormat) -> Iterator[None]:
    """Whatever Pillow raises within becomes BadPicture, or Overloaded where memory ran out; whatever it warns of is dropped:
    for this thread alone."""
    _thread.hushed = True
    try:
        yield
    except BadPicture:
        raise
    except MemoryError as error:  # the machine's fault, not the picture's
        raise Overloaded("Expected memory for this picture, found none free. Send it again later.") from error
    except Image.DecompressionBombError as error:
        raise TooLarge("Expected a picture of reasonable size, got one that unfolds to far more pixels. "
                       "Make the picture smaller.") from error
    except Exception as error:  # Pillow documents no set; OSError, SyntaxError, struct.error and more were seen
        raise BadPicture(f"Expected a whole {found.name} picture, got one that is cut short, damaged or of a rare "
                         "kind. Send it again, or convert it to JPEG or PNG.") from error
    finally:
        _thread.hushed = False


class _CountedReads(io.BytesIO):
    """Refuses a file of millions of tiny segments or runs: Pillow spends a Python object or microseconds on each."""

    reads_left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise BadPicture("Expected a picture stored in pieces of reasonable size, got one of very many tiny "
                             "pieces. Save it again as JPEG or PNG, without metadata.")
        return super().read(size)


def _check_scans(picture: bytes) -> None:
    """Refuse a JPEG of very many scans, each of a few bytes."""
    if has_more_scans(picture, MAX_SCANS):
        raise BadPicture(f"Expected a JPEG of at most {MAX_SCANS} scans, got more. Save it again, as a baseline JPEG.")


def _check_tiff(picture: bytes) -> None:
    """Refuse a TIFF that costs more than its picture: Pillow makes an object per value, libtiff room for a tile."""
    first = read_directory(picture)
    directories = [first, *(read_directory(picture, first[tag].value) for tag in POINTERS if tag in first)]
    numbers = [tag for tags in directories for tag in tags.values() if tag.type not in (BYTE, ASCII, UNDEFINED)]
    if max((tag.length for tag in numbers), default=0) > MAX_TAG_VALUES:
        raise BadPicture(f"Expected a TIFF with at most {MAX_TAG_VALUES:,} values in a tag, got more. "
                         "Save it again with larger strips or tiles.")
    width, height, tile_width, tile_height = (
        first[tag].value if tag in first else 0 for tag in (WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT))
    if tile_width * tile_height > max(MAX_TILE_PIXELS, width * height):
        raise BadPicture(f"Expected TIFF tiles no larger than the picture, got {tile_width:,} x {tile_height:,} "
                         "pixels. Save it again with smaller tiles.")


@cache
def _plugin(found: PictureFormat) -> type[ImageFile]:
    """Pillow's reader of one format, imported when the first such picture comes."""
    name = _PLUGINS[found]
    module = import_module(f"PIL.{name}ImagePlugin")
    for noisy in (Image, module):
        vars(noisy)["warnings"] = _HUSHABLE
    plugin: type[ImageFile] = getattr(module, f"{name}ImageFile")
    if found is JPEG:  # Pillow would read all of the EXIF block for the dots per inch, which nobody asks for
        plugin = type(plugin.__name__, (plugin,), {"_read_dpi_from_exif": lambda self: None})
    return plugin


class _Hushable:
    """Stands for the module `warnings` inside Pillow's plugins: silent in a thread that is `refusing`.

    A filter would not do: filters belong to the whole process, so two threads that set and reset them undo each
    other; and under warnings-as-errors a harmless oddity of a picture would make it unreadable.
    """

    def warn(self, message: Any, category: type[Warning] | None = None, stacklevel: int = 1, **rest: Any) -> None:
        if not getattr(_thread, "hushed", False):
            warnings.warn(message, category, stacklevel + 1, **rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


_HUSHABLE = _Hushable()
