"""Bundles from S3, kept in a folder by their digest: downloaded once, checked while they are written, whole or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shutterless.bundles import MANIFEST
from shutterless.errors import BadBundle, BadSettings, NotFound, Unavailable
from shutterless.manifests import BundleFile, Manifest, parse_manifest
from shutterless.signatures import MAX_BYTES, SIGNATURE

Read = Callable[[str], Iterable[bytes]]  # a path in the bundle -> its bytes, piece by piece
MAX_MANIFEST_BYTES = 16_000_000

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def fetch_bundle(uri: str, cache: Path) -> Path:
    """The folder in `cache` of the bundle at `s3://bucket/prefix/name/version`, downloaded unless it is there.

    Raises NotFound, BadBundle, BadSettings (no right, no credentials) or Unavailable (S3 or the disk fails).
    """
    from shutterless.aws import S3Objects

    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    store = S3Objects(bucket, prefix)
    try:
        return keep_bundle(store.chunks, cache)
    except NotFound as error:
        raise NotFound(f"MODEL_URI: expected a bundle at {uri}, got nothing that starts with a {MANIFEST}. Give the address "
                       "that `shutterless publish` printed, with its version.") from error
    finally:
        store.close()


def keep_bundle(read: Read, cache: Path) -> Path:
    """The bundle that `read` gives, in `cache/<digest of its manifest>/`.

    One process downloads, others wait for it. What a killed one left is gone on with: files that are whole stay. The
    signature is read each time, since it may come later or be replaced. Raises what `read` raises, NotFound where there
    is no manifest, BadBundle for what is no bundle or arrives damaged, and Unavailable when the disk fails.
    """
    text = _limited(read(MANIFEST), MANIFEST, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(text)
    digest = hashlib.sha256(text).hexdigest()
    folder, unfinished = cache / digest, cache / f".{digest}.unfinished"
    with _explained():
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{digest}.lock"):
            if not _is_whole(folder, manifest):
                shutil.rmtree(folder, ignore_errors=True)
                _fill(unfinished, manifest, text, read)
                unfinished.rename(folder)
                _sync(cache)
            _renew_signature(folder, read)
    return folder


def _fill(folder: Path, manifest: Manifest, text: bytes, read: Read) -> None:
    folder.mkdir(exist_ok=True)
    try:
        for path, expected in manifest.files.items():
            if not _is_there(folder / path, expected):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                _download(read(path), folder / path, path, expected)
        _write(folder / MANIFEST, text)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # what fills the disk must not keep it full
        raise


def _download(pieces: Iterable[bytes], file: Path, path: str, expected: BundleFile) -> None:
    """Write and hash in one go. Raises BadBundle, and leaves no file, when what comes is not what the manifest says."""
    digest, length = hashlib.sha256(), 0
    partial = file.with_name(f".{file.name}.part")
    try:
        with partial.open("wb") as stream:
            for piece in pieces:
                length += len(piece)
                if length > expected.bytes:
                    break
                digest.update(piece)
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    except NotFound as error:
        raise BadBundle(f"{path}: expected a file of {expected.bytes:,} bytes beside the {MANIFEST} in S3, got none. "
                        f"{_REMEDY}") from error
    if length != expected.bytes:
        got = "more" if length > expected.bytes else f"{length:,}"
        raise BadBundle(f"{path}: expected {expected.bytes:,} bytes from S3, got {got}. {_REMEDY}")
    if digest.hexdigest() != expected.sha256:
        raise BadBundle(f"{path}: expected sha256 {expected.sha256} from S3, got {digest.hexdigest()}. {_REMEDY}")
    partial.rename(file)
    _sync(file.parent)


_REMEDY = "Publish the bundle again, under a new version."


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """By lengths; the digests are checked when the bundle is opened."""
    files = [(folder / path, expected.bytes) for path, expected in manifest.files.items()]
    return (folder / MANIFEST).is_file() and all(file.is_file() and file.stat().st_size == length for file, length in files)


def _is_there(file: Path, expected: BundleFile) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == expected.sha256


def _renew_signature(folder: Path, read: Read) -> None:
    """As in S3: new, replaced or gone. A role that may not list what is there is told 403 for what is not."""
    try:
        signature = _limited(read(SIGNATURE), SIGNATURE, MAX_BYTES)
    except (NotFound, BadSettings):
        (folder / SIGNATURE).unlink(missing_ok=True)
        return
    if not (folder / SIGNATURE).is_file() or (folder / SIGNATURE).read_bytes() != signature:
        _write(folder / SIGNATURE, signature)


def _write(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.part")
    with partial.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(file)
    _sync(file.parent)


def _limited(pieces: Iterable[bytes], path: str, max_bytes: int) -> bytes:
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > max_bytes:
            raise BadBundle(f"{path}: expected at most {max_bytes:,} bytes in S3, got more. {_REMEDY}")
    return bytes(content)


def _sync(folder: Path) -> None:
    """Write a folder's list of names through to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when that dies."""
    with file.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """Turn the operating system's errors into Unavailable with a sentence that names no path."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a name in the manifest that no file can have
        number = error.errno if isinstance(error, OSError) else errno.EINVAL
        reason = "the disk is full" if number in _FULL else os.strerror(number or 0).lower()
        raise Unavailable(f"The bundle from S3 cannot be kept in the folder SHUTTERLESS_VAR_DIR: {reason}. Mend that, and start "
                          "again.") from error
