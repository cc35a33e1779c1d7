"""What is whole or not there, whenever its writer dies: a bundle's folder, and files that take the place of former ones."""

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

    Until then no reader takes it for a version. What a killed process left of the same version is removed first. Raises
    ExportError when that version exists, another process is writing it, or a file stands where a folder has to be.
    """
    folder = target.with_name(f".{target.name}.unfinished")
    with _alone(target), _removed_on_error(folder):
        if target.exists():
            raise ExportError(f"{_name(target)} exists, and a version never changes. Give another: --version.")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        folder.rename(target)


@contextmanager
def replaced_whole(target: Path) -> Iterator[Path]:
    """A path beside `target`, for a file that takes its place once it is whole and on the disk; else the former one stays."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """With a lock on a file beside `target`; it ends with the process, however that ends.

    On NFS Linux asks the server for it, so that it holds between machines: of a file that can be written, not of a folder. What
    is mounted without locks (`nolock`) holds off commands of one machine, or none.
    """
    path, lock = target.with_name(f".{target.name}.lock"), None
    while lock is None:
        lock = _locked(path, target)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)
        with suppress(OSError):  # versions are in it
            path.parent.rmdir()


def _locked(path: Path, target: Path) -> int | None:
    """The open lock file; None where another command ended, and took it away, between opening and locking."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        raise ExportError(f"{path.parent}: expected a place for folders, got a file in it. Give another: --models or "
                          "--name.") from error
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ExportError(f"Another command is writing {_name(target)}. Wait until it has ended, or give another: "
                          "--version.") from error
    except OSError:  # a file system without locks
        pass
    if _is_at(path, lock):
        return lock
    os.close(lock)
    return None


def _is_at(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _name(target: Path) -> str:
    return f"{target.parent.name}/{target.name}"


@contextmanager
def _removed_on_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:  # a signal, too
        shutil.rmtree(folder, ignore_errors=True)
        raise
