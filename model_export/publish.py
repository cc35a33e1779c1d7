"""Step 6: a bundle -> S3, under a version that never changes; read back and compared."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model_export.errors import ExportError
from shutterless.bundles import MANIFEST, Bundle
from shutterless.signatures import SIGNATURE

CONFIG = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})


@dataclass(frozen=True)
class Published:
    """Where a bundle is now; `uploaded` counts the files that were not there before."""

    uri: str
    uploaded: int


def publish(bundle: Bundle, target: str, *, client: Any = None,
            step: Callable[[str, int], object] = lambda path, n: None) -> Published:
    """Upload `bundle` under `target` (s3://bucket/prefix) as `<name>/<version>/`, the manifest last.

    Publishing the same bundle again uploads nothing; what is there is read back and compared either way. Its signature may
    come later, and be replaced by another: it says who vouches for the version, and is no part of it. `step` is told
    each file's path and bytes. Raises ExportError when that version exists with other content, when S3 refuses, or when
    what comes back differs.
    """
    bucket, prefix = _place(target)
    client = client or boto3.client("s3", config=CONFIG)
    manifest = bundle.manifest
    root = "/".join(part for part in (prefix, manifest.name, manifest.version) if part)
    uploaded = 0
    try:
        signature = [SIGNATURE] if (bundle.folder / SIGNATURE).is_file() else []
        for path in [*manifest.files, *signature, MANIFEST]:  # the manifest last: a reader that finds it finds all of it
            content = (bundle.folder / path).read_bytes()
            uploaded += _put(client, bucket, f"{root}/{path}", content, replace=path == SIGNATURE)
            step(path, len(content))
    except (BotoCoreError, ClientError) as error:
        raise ExportError(f"S3 did not take s3://{bucket}/{root} ({_code(error)}). Check the bucket's name, your credentials "
                          "and their right to put and get objects there, and publish again.") from error
    return Published(f"s3://{bucket}/{root}", uploaded)


def _put(client: Any, bucket: str, key: str, content: bytes, *, replace: bool) -> bool:
    """Put an object that is not there, or not with this content if it may be replaced; whether it was put.

    Either way what is there must have the same digest.
    """
    digest = hashlib.sha256(content)
    checksum = base64.b64encode(digest.digest()).decode()
    put = partial(client.put_object, Bucket=bucket, Key=key, Body=content, ChecksumSHA256=checksum,
                  ContentType="application/json" if key.endswith(".json") else "application/octet-stream")
    new = True
    try:
        put(IfNoneMatch="*")
    except ClientError as error:
        if _code(error) not in ("PreconditionFailed", "412"):
            raise
        new = False
    found = _digest(client, bucket, key)
    if found != digest.hexdigest() and replace:
        put()
        new, found = True, _digest(client, bucket, key)
    if found != digest.hexdigest():
        raise ExportError(f"s3://{bucket}/{key}: expected sha256 {digest.hexdigest()[:16]}, found {found[:16]}. That version was "
                          "published with other content, and a version never changes: export under a new --version.")
    return new


def _digest(client: Any, bucket: str, key: str) -> str:
    return hashlib.sha256(client.get_object(Bucket=bucket, Key=key)["Body"].read()).hexdigest()


def _place(target: str) -> tuple[str, str]:
    url = urlsplit(target)
    if url.scheme != "s3" or not url.netloc:
        raise ExportError(f"{target} is no place in S3. Give s3://bucket or s3://bucket/prefix.")
    return url.netloc, url.path.strip("/")


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__
