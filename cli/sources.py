"""Where pictures come from on the command line: files, folders, standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shutterless.errors import BadPicture, NotFound
from shutterless.formats import ACCEPTED, sniff

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """One picture, or one place where none is: then `read` says so."""

    name: str  # what the user knows it by
    content: bytes | None = None  # of standard input only

    def read(self, max_bytes: int) -> bytes:
        """The bytes; at most one more than `max_bytes`, so that no file fills the memory before it is refused.

        Raises NotFound or BadPicture with what to do.
        """
        if self.content is not None:
            return self.content
        try:
            with Path(self.name).open("rb") as file:
                return file.read(max_bytes + 1)
        except FileNotFoundError:
            raise NotFound("There is no file or folder of this name. Check the path.") from None
        except IsADirectoryError:
            raise NotFound(f"There is no picture in this folder. Give a folder of {ACCEPTED} files.") from None
        except OSError as error:
            raise BadPicture(f"The file cannot be read ({error.strerror}). Check its permissions.") from error


def find_sources(paths: Iterable[str], max_bytes: int) -> list[Source]:
    """One source per picture, folders opened out recursively; a folder without pictures stays, to be complained of.

    Standard input is read here, in the main thread, where Ctrl-C ends the waiting.
    """
    return [source for path in paths for source in _opened_out(path, max_bytes)]


def _opened_out(path: str, max_bytes: int) -> list[Source]:
    if path == STANDARD_INPUT:
        return [Source(path, sys.stdin.buffer.read(max_bytes + 1))]
    folder = Path(path)
    files = sorted(file for file in folder.rglob("*") if _is_picture(file, folder)) if folder.is_dir() else []
    return [Source(str(file)) for file in files] or [Source(path)]


def _is_picture(file: Path, folder: Path) -> bool:
    """By its name or by its first bytes: an empty .jpg is complained of, a picture without suffix is answered."""
    if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            return sniff(opened.read(32)) is not None
    except OSError:
        return False
