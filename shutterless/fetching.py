"""A bundle in S3 -> a folder here: large files in parts side by side, every byte compared with its digest as it arrives."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shutterless.bundles import MANIFEST, Bundle, choose_optimised, read_bundle
from shutterless.credentials import CredentialSource
from shutterless.errors import BadBundle, BadSettings, NotFound
from shutterless.manifests import BundleFile, parse_manifest
from shutterless.s3 import Bucket

PART_BYTES = 8 * 1024 * 1024  # what S3's own advice calls a good size of a ranged GET
CONNECTIONS = 8

UNFINISHED = ".unfinished"

Part = tuple[str, int, int]  # path, first byte, bytes
Get = Callable[[str, int, int | None], bytes]  # key, first byte, bytes (None: all) -> what the bucket has of them

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
                 every_file: bool = False, credentials: CredentialSource | None = None, get: Get | None = None) -> Bundle:
    """The bundle, in `into`/<digest of its manifest>/; if it is there already, S3 is asked for the manifest at most.

    every_file: not only those that are opened on this machine. also: files that no manifest lists, such as a signature;
    they may be missing, and are asked for each time, since they may come later. get: how to read the bucket; default,
    `Bucket.get`. Of several processes one fetches and the others wait.
    Raises BadBundle when what came differs, NotFound, BadSettings and Unavailable as `get` does. A fetch that fails leaves
    nothing behind; what a killed one left is removed by the next.
    """
    place = parse_uri(uri)
    if place.sha256 and not also and (kept := _kept(into / place.sha256)):
        return kept
    get = get or Bucket(place.bucket, environ, credentials or CredentialSource(environ)).get
    with _alone(into):
        kept = _kept(into / place.sha256) if place.sha256 else None
        bundle = kept or _fetch(get, place, into, every_file)
        for path in also:
            _renew(get, place, path, bundle.folder)
    return bundle


def _fetch(get: Get, place: Place, into: Path, every_file: bool) -> Bundle:
    try:
        text = get(f"{place.prefix}/{MANIFEST}", 0, None)
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
    unfinished = into / f".{digest}{UNFINISHED}"
    unfinished.mkdir()
    optimised = choose_optimised(manifest)
    wanted = manifest.files if every_file else {path: manifest.files[path] for path in manifest.needed(optimised)}
    _fetch_files(get, place.prefix, wanted, unfinished)
    (unfinished / MANIFEST).write_bytes(text)
    unfinished.rename(into / digest)
    return Bundle(folder=into / digest, manifest=manifest, sha256=digest, optimised=optimised,
                  batched=choose_optimised(manifest, batches=True))


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
def _alone(into: Path) -> Iterator[None]:
    """One process and thread at a time, with no unfinished folder before or after. The lock of one that dies is free."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(into, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _sweep(into)
            yield
        finally:
            _sweep(into)
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BadSettings(f"{into}: expected room for the bundle, got a full disk. Remove what is not needed there, or raise "
                              "the function's ephemeral storage.") from error
        raise BadSettings(f"{into}: expected a folder that can be written, got {error.strerror}. Set SHUTTERLESS_VAR_DIR to "
                          "another.") from error


def _sweep(into: Path) -> None:
    for unfinished in into.glob(f".*{UNFINISHED}"):
        unfinished.unlink() if unfinished.is_file() else shutil.rmtree(unfinished, ignore_errors=True)


def _fetch_files(get: Get, prefix: str, files: Mapping[str, BundleFile], folder: Path) -> None:
    parts = [(path, first, min(PART_BYTES, file.bytes - first)) for path, file in files.items()
             for first in range(0, file.bytes, PART_BYTES)]
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()

    def fetch(part: Part) -> Part:
        path, first, length = part
        try:
            content = get(f"{prefix}/{path}", first, length)
        except NotFound:
            content = b""
        if len(content) != length:
            raise BadBundle(f"{path}: expected {files[path].bytes:,} bytes, S3 has none or fewer. Publish the bundle again.")
        _write(folder / path, first, content)
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


def _renew(get: Get, place: Place, path: str, folder: Path) -> None:
    """As it is in S3 now: new, replaced or gone."""
    try:
        content = get(f"{place.prefix}/{path}", 0, None)
    except (NotFound, BadSettings):  # without the right to list, S3 says of a missing object that it is forbidden
        (folder / path).unlink(missing_ok=True)
        return
    unfinished = folder.with_name(f".{folder.name}.{path}{UNFINISHED}")
    unfinished.write_bytes(content)
    unfinished.rename(folder / path)


def _write(file: Path, first: int, content: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(first)
        stream.write(content)


def _read(file: Path, first: int, length: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(first)
        return stream.read(length)
