"""A bundle in S3 -> a folder here: large files in parts side by side, every byte compared with its digest as it arrives."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shutterless.bundles import MANIFEST, Bundle, read_bundle
from shutterless.credentials import CredentialSource
from shutterless.errors import BadBundle, BadSettings, NotFound
from shutterless.manifests import BundleFile, parse_manifest
from shutterless.s3 import Bucket

PART_BYTES = 8 * 1024 * 1024  # what S3's own advice calls a good size of a ranged GET
CONNECTIONS = 8

Part = tuple[str, int, int]  # path, first byte, bytes

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([^@]+?)/?(?:@sha256:([0-9a-f]{64}))?")


@dataclass(frozen=True)
class Place:
    """Where a bundle is: s3://bucket/prefix, and the digest of its manifest where one is asked for."""

    bucket: str
    prefix: str
    sha256: str | None


def parse_uri(uri: str) -> Place:
    """Of `s3://bucket/name/version` or `s3://bucket/name/version@sha256:digest`. Raises BadSettings."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise BadSettings("MODEL_URI: expected s3://BUCKET/PREFIX/NAME/VERSION, with @sha256: and the manifest's digest behind "
                          f"it to hold it to that, got {uri[:120]!r}. `shutterless publish` prints the address.")
    return Place(*found.groups())


def fetch_bundle(uri: str, into: Path, environ: Mapping[str, str], *, also: tuple[str, ...] = (),
                 credentials: CredentialSource | None = None) -> Bundle:
    """The bundle, in `into`/<digest of its manifest>/; if it is there already, S3 is asked for the manifest at most.

    also: files that no manifest lists, such as a signature; they may be missing. Raises BadBundle when what came differs,
    NotFound, BadSettings and Unavailable as `Bucket.get` does. A fetch that fails leaves nothing behind.
    """
    place = parse_uri(uri)
    if place.sha256 and (kept := _kept(into / place.sha256)):
        return kept
    bucket = Bucket(place.bucket, environ, credentials or CredentialSource(environ))
    try:
        text = bucket.get(f"{place.prefix}/{MANIFEST}")
    except NotFound as error:
        raise NotFound(f"MODEL_URI: expected a bundle at s3://{place.bucket}/{place.prefix}, found no {MANIFEST} there. "
                       "Correct the address: it ends in NAME/VERSION.") from error
    digest = hashlib.sha256(text).hexdigest()
    if place.sha256 not in (None, digest):
        raise BadBundle(f"{MANIFEST}: MODEL_URI expects sha256 {place.sha256}, S3 has {digest}. Correct MODEL_URI, or publish "
                        "the bundle again.")
    if kept := _kept(into / digest):
        return kept
    manifest = parse_manifest(text)
    with _staging(into, digest) as folder:
        _fetch_files(bucket, place.prefix, manifest.files, folder)
        for path in also:
            _fetch_extra(bucket, place.prefix, path, folder)
        (folder / MANIFEST).write_bytes(text)
    return Bundle(folder=into / digest, manifest=manifest, sha256=digest)


def _kept(folder: Path) -> Bundle | None:
    """A bundle that an earlier start fetched, whole; what is broken is removed."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return read_bundle(folder)
    except BadBundle:
        shutil.rmtree(folder, ignore_errors=True)
        return None


@contextmanager
def _staging(into: Path, digest: str) -> Iterator[Path]:
    """A folder to fill, which gets its name when all of it is there. Who fetches the same at the same time gains nothing."""
    folder = into / f".{digest}.{os.getpid()}.{threading.get_ident()}"
    try:
        folder.mkdir(parents=True)
        yield folder
        try:
            folder.rename(into / digest)
        except OSError:
            if not (into / digest / MANIFEST).is_file():
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadSettings(f"{into}: expected room for the bundle, got a full disk. Raise the function's ephemeral storage, "
                              "or remove what is not needed.") from error
        raise BadSettings(f"{into}: expected a folder that can be written, got {error.strerror}. Set SHUTTERLESS_VAR_DIR to "
                          "another.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_files(bucket: Bucket, prefix: str, files: Mapping[str, BundleFile], folder: Path) -> None:
    parts = [(path, first, min(PART_BYTES, file.bytes - first)) for path, file in files.items()
             for first in range(0, file.bytes, PART_BYTES)]
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()

    def fetch(part: Part) -> Part:
        path, first, length = part
        _write(folder / path, first, bucket.get(f"{prefix}/{path}", first, length))
        return part

    digests = {path: hashlib.sha256() for path in files}
    for path, first, length in _side_by_side(fetch, parts):
        digests[path].update(_read(folder / path, first, length))
    for path, file in files.items():
        if digests[path].hexdigest() != file.sha256:
            raise BadBundle(f"{path}: expected sha256 {file.sha256}, S3 has {digests[path].hexdigest()}. Publish the bundle "
                            "again.")


def _side_by_side(fetch: Callable[[Part], Part], parts: list[Part]) -> Iterator[Part]:
    """What `fetch` returns for each part, in their order, CONNECTIONS of them at the same time."""
    if len(parts) <= 1:
        yield from map(fetch, parts)
        return
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(min(CONNECTIONS, len(parts)))
    try:
        yield from pool.map(fetch, parts)
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch_extra(bucket: Bucket, prefix: str, path: str, folder: Path) -> None:
    try:
        (folder / path).write_bytes(bucket.get(f"{prefix}/{path}"))
    except (NotFound, BadSettings):  # without the right to list, S3 says of a missing object that it is forbidden
        return


def _write(file: Path, first: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(first)
        stream.write(content)


def _read(file: Path, first: int, length: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(first)
        return stream.read(length)
