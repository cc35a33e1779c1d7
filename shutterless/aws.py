"""What the core asks of AWS: S3. The only core module that imports boto3; credentials and region are the environment's.

Errors: no such key or version is NotFound; no right, no bucket, no credentials is BadSettings, since only the operator
can mend that; faults of S3 or of the network are tried again a bounded number of times, then Unavailable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from shutterless.errors import BadSettings, NotFound, TooLarge, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_MISSING = {"NoSuchKey", "NoSuchVersion", "404", "MethodNotAllowed",  # the version is a delete marker
            "InvalidRange"}
_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError)
_OPERATORS = (NoCredentialsError, PartialCredentialsError, NoRegionError, ParamValidationError)
# 400s that pass: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING = {"RequestTimeout", "ExpiredToken", "OperationAborted"}


_BY_FORM = "by-form"  # metadata of what came by a presigned form


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object's bytes. by_form: a client put it there itself, by a form of ours, and could do so again."""

    body: bytes
    by_form: bool


class S3Objects:
    """Objects in `bucket` under `prefix`. One object serves all threads. Times are in seconds.

    A call ends within about attempts * (connect_timeout_s + read_timeout_s) plus a few seconds of waiting in between,
    unless S3 keeps sending a little: read_timeout_s bounds each silence, not the whole transfer. A put that is tried
    again may leave two versions of the same bytes; the returned one is the last.
    """

    def __init__(self, bucket: str, prefix: str = "", *, connect_timeout_s: float = 2.0, read_timeout_s: float = 5.0,
                 attempts: int = 3, max_connections: int = 32) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._attempts = attempts
        config = Config(connect_timeout=connect_timeout_s, read_timeout=read_timeout_s,
                        retries={"mode": "standard", "total_max_attempts": attempts},
                        max_pool_connections=max_connections,
                        s3={"us_east_1_regional_endpoint": "regional"})
        with _explained():
            self._s3: S3Client = boto3.client("s3", config=config)
        self._signing: S3Client | None = None

    def put(self, key: str, body: bytes, content_type: str) -> str | None:
        """S3 checks the SHA-256 of what arrived. Returns None when the bucket keeps no versions."""
        with _explained():
            return self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body, ContentType=content_type,
                                       ChecksumAlgorithm="SHA256").get("VersionId")

    def get(self, key: str, version: str | None = None) -> bytes:
        return self.read(key, version).body

    def read(self, key: str, version: str | None = None, *, max_bytes: int | None = None) -> Stored:
        """botocore tries a request again, but not a body that breaks off: that is done here. Raises NotFound, and TooLarge
        for more than `max_bytes`, of which nothing is read."""
        broken: Exception | None = None
        with _explained():
            for _ in range(self._attempts):
                answer = self._ask(key, version)
                if max_bytes is not None and answer["ContentLength"] > max_bytes:
                    answer["Body"].close()
                    raise TooLarge(f"Expected at most {max_bytes:,} bytes, got {answer['ContentLength']:,}. "
                                   "Save the picture smaller or with more compression.")
                try:
                    return Stored(body=answer["Body"].read(), by_form=_BY_FORM in answer.get("Metadata", {}))
                except _BROKEN_BODY as error:
                    broken = error
        raise Unavailable("The object store breaks off in the middle. Try again in a moment.") from broken

    def has(self, key: str, version: str | None = None) -> bool:
        try:
            with _explained():
                self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key, **_version(version))
        except NotFound:
            self._check_bucket()
            return False
        return True

    def _check_bucket(self) -> None:
        """HEAD says the same of an object that is not there and of a bucket: but then, the objects are somewhere else."""
        try:
            with _explained():
                self._s3.head_bucket(Bucket=self._bucket)
        except NotFound as error:
            raise BadSettings("The object store has no bucket of this name. Check SHUTTERLESS_OBJECTS.") from error

    def is_deleted(self, key: str) -> bool:
        """Whether the newest version says that the key was deleted: in a versioned bucket, older ones may still be there."""
        try:
            with _explained():
                self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except NotFound as error:
            return _headers(error.__cause__).get("x-amz-delete-marker") == "true"
        return False

    def first_version(self, key: str) -> str | None:
        """The oldest version that the bucket still has; None when it has none."""
        full, first = self._prefix + key, None
        with _explained():
            for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=full):
                first = next((v["VersionId"] for v in reversed(page.get("Versions", [])) if v["Key"] == full), first)
        return first

    def form(self, key: str, content_type: str, size_bytes: int, expires_s: int) -> dict[str, Any]:
        """{url, fields} with which anyone may put this key here by POST, within `expires_s` seconds: the fields, then the
        file, of exactly this size and this content type. Made offline."""
        held = {"Content-Type": content_type, f"x-amz-meta-{_BY_FORM}": "1"}
        conditions = [*({name: value} for name, value in held.items()), ["content-length-range", size_bytes, size_bytes]]
        with _explained():
            return self._signer().generate_presigned_post(self._bucket, self._prefix + key, Fields=held,
                                                          Conditions=conditions, ExpiresIn=expires_s)

    def link(self, key: str, version: str | None, expires_s: int, **response: str) -> str:
        """An address where anyone can read this version for `expires_s` seconds. Made offline. response: what the answer
        will say of itself, by GetObject's parameters: ResponseContentType, ResponseCacheControl, ..."""
        asked = {"Bucket": self._bucket, "Key": self._prefix + key, **_version(version), **response}
        with _explained():
            return self._signer().generate_presigned_url("get_object", Params=asked, ExpiresIn=expires_s)

    def delete(self, key: str) -> None:
        """In a versioned bucket the versions stay until its lifecycle rule removes them."""
        with _explained():
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def part(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """The newest version, or as many of its `length` bytes from `first` as there are. Raises as `get` does."""
        wanted: dict[str, Any] = {} if length is None else {"Range": f"bytes={first}-{first + length - 1}"}
        broken: Exception | None = None
        with _explained():
            for _ in range(self._attempts):
                answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key, **wanted)
                try:
                    return answer["Body"].read()
                except _BROKEN_BODY as error:
                    broken = error
        raise Unavailable("The object store breaks off in the middle. Try again in a moment.") from broken

    def close(self) -> None:
        """Close idle connections."""
        self._s3.close()

    def _ask(self, key: str, version: str | None) -> GetObjectOutputTypeDef:
        return self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key, **_version(version))

    def _signer(self) -> S3Client:
        """A client whose addresses are regional, since a redirect to the bucket's region would lose a form's body. Left
        alone, boto3 signs for the global address outside of us-east-1; other stores than AWS's know no virtual hosts."""
        if self._signing is None:
            on_aws = ".amazonaws.com" in self._s3.meta.endpoint_url
            config = Config(signature_version="s3v4", s3={"us_east_1_regional_endpoint": "regional",
                                                          "addressing_style": "virtual" if on_aws else "path"})
            self._signing = boto3.client("s3", config=config)
        return self._signing


def _version(version: str | None) -> dict[str, Any]:
    return {} if version is None else {"VersionId": version}


def _headers(error: BaseException | None) -> dict[str, str]:
    """Of S3's answer, names in lower case."""
    return error.response["ResponseMetadata"].get("HTTPHeaders", {}) if isinstance(error, ClientError) else {}


@contextmanager
def _explained() -> Iterator[None]:
    """Turn botocore's errors into ours. The messages name no bucket, key or account."""
    try:
        yield
    except ClientError as error:
        raise _meaning(error) from error
    except _OPERATORS as error:
        raise BadSettings("The object store cannot be used: credentials, region or bucket name are missing or wrong. "
                          "Check SHUTTERLESS_OBJECTS or MODEL_URI, and the AWS_* variables.") from error
    except (BotoCoreError, HTTPClientError) as error:
        raise Unavailable("The object store does not answer. Try again in a moment.") from error


def _meaning(error: ClientError) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    if status >= 500 or status == 429 or code in _PASSING:
        return Unavailable("The object store is busy or out of order. Try again in a moment.")
    bad_version = code == "InvalidArgument" and "version id" in error.response["Error"].get("Message", "").lower()
    if code in _MISSING or bad_version:
        return NotFound("The picture is not stored. It was deleted, or never came.")
    return BadSettings(f"The object store refuses: expected the right to {error.operation_name}, got {code}. "
                       "Grant it on the bucket that SHUTTERLESS_OBJECTS or MODEL_URI names, to this server's role.")
