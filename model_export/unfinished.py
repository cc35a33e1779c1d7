"""A bundle while it is written: in a folder that no reader takes for a version, whole or not there at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_export.errors import ExportError


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target`, models/<name>/<version>; where that fails or is broken off, nothing of it stays.

    What a killed process left of the same version is removed first. Raises ExportError when that version exists, another
    process is writing it, or a file stands where a folder has to be.
    """
    name, folder = f"{target.parent.name}/{target.name}", target.with_name(f".{target.name}.unfinished")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ExportError(f"{target.parent}: expected a place for folders, got a file in it. Give another: --models or "
                          "--name.") from error
    lock = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(lock):
            raise ExportError(f"Another command is writing {name}. Wait until it has ended, or give another: --version.")
        with _removed_on_error(folder):
            if target.exists():
                raise ExportError(f"{name} exists, and a version never changes. Give another: --version.")
            _empty(folder)
            yield folder
            folder.rename(target)
    finally:
        os.close(lock)


def _locked(folder: int) -> bool:
    """Whether nobody else holds it. The lock ends with the process, however that ends."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a signal, too
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # other versions are beside it
            folder.parent.rmdir()
        raise


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
