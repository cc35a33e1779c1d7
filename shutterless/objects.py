"""Pictures as they came, by key: in a folder or in S3, behind one small interface."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from shutterless.errors import BadRequest, NotFound, Unavailable

_INCOMING = ".incoming"  # no key can name it: see _check_key
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LEFTOVER_S = 3600  # an unfinished file this old belongs to a process that was killed


class Objects(Protocol):
    """A store of bytes. Every method raises Unavailable when the store does not answer or is full."""

    def put(self, key: str, body: bytes, content_type: str) -> str | None:
        """Store `body` whole, on the disk before this returns. Returns its version where the store keeps versions."""

    def get(self, key: str, version: str | None = None) -> bytes:
        """The bytes of a version, or of the newest. Raises NotFound."""

    def has(self, key: str, version: str | None = None) -> bool:
        """Whether `get` would find something."""

    def delete(self, key: str) -> None:
        """Forget the key; it need not exist."""


def open_objects(url: str) -> Objects:
    """Open `s3://bucket`, `s3://bucket/prefix` or a folder, which is made."""
    if url.startswith("s3://"):
        from shutterless.aws import S3Objects  # boto3 costs a server that does not use it nothing

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Objects(bucket, prefix)
    return FolderObjects(Path(url))


class FolderObjects:
    """One file per key. A file is written beside the others, synced and renamed, so that a reader, or a machine that
    lost its power, sees all of it or nothing. Keeps no versions: the last writer wins. content_type is the record's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._incoming = self._folder / _INCOMING
        with explained("made"):
            self._incoming.mkdir(parents=True, exist_ok=True)
            self._sweep()

    def put(self, key: str, body: bytes, content_type: str) -> str | None:
        path = self._path(key)
        with explained("written"):
            _make_folder(path.parent)
            descriptor, partial = tempfile.mkstemp(dir=self._incoming)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(descriptor)
                Path(partial).replace(path)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
            _sync_folder(path.parent)
        return None

    def get(self, key: str, version: str | None = None) -> bytes:
        path = self._path(key)
        if version is not None:
            raise NotFound("The picture's version is not in this store, which keeps none. Ask without a version.")
        with explained("read"):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise NotFound("The picture is not stored. It was deleted, or never came.") from None

    def has(self, key: str, version: str | None = None) -> bool:
        with explained("read"):
            return version is None and self._path(key).is_file()

    def delete(self, key: str) -> None:
        path = self._path(key)
        with explained("deleted"):
            try:
                path.unlink()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return
            _sync_folder(path.parent)

    def _path(self, key: str) -> Path:
        _check_key(key)
        return self._folder / key

    def _sweep(self) -> None:
        """Remove what killed writers left behind."""
        for partial in self._incoming.iterdir():
            try:
                if time.time() - partial.stat().st_mtime > _LEFTOVER_S:
                    partial.unlink()
            except FileNotFoundError:
                pass  # another process finished or swept it


def _check_key(key: str) -> None:
    """A key is names joined by "/", none starting with a dot: so it stays inside the folder. Raises BadRequest."""
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        encoded = b""
    names = encoded.split(b"/")
    fits = (len(encoded) <= 1024 and b"\0" not in encoded and b"\\" not in encoded
            and all(0 < len(name) <= 255 and not name.startswith(b".") for name in names))
    if not fits:
        raise BadRequest("key: expected names of at most 255 bytes joined by slashes, none starting with a dot, "
                         f"got {key[:80]!r}.")


def _make_folder(folder: Path) -> None:
    """Make a folder that a power loss does not take away again."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Write a folder's list of names through to the disk; syncing the file does not do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(done: str) -> Iterator[None]:
    """Turn the operating system's errors into Unavailable with a sentence that names no path."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in _FULL else os.strerror(error.errno or 0).lower()
        raise Unavailable(f"The picture store cannot be {done}: {reason}. Try again when that is mended.") from error
