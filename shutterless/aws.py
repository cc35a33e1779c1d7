"""What the core asks of AWS: S3. The only core module that imports boto3; credentials and region are the environment's.

Errors: no such key or version is NotFound; no right, no bucket, no credentials is BadSettings, since only the operator
can mend that; faults of S3 or of the network are tried again a bounded number of times, then Unavailable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

from shutterless.errors import BadSettings, NotFound, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_MISSING = {"NoSuchKey", "NoSuchVersion", "404", "MethodNotAllowed",  # the version is a delete marker
            "InvalidRange"}
_BROKEN_BODY = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, FlexibleChecksumError)
_OPERATORS = (NoCredentialsError, PartialCredentialsError, NoRegionError, ParamValidationError)
# 400s that pass: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_PASSING = {"RequestTimeout", "ExpiredToken", "OperationAborted"}


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

    def put(self, key: str, body: bytes, content_type: str) -> str | None:
        """S3 checks the SHA-256 of what arrived. Returns None when the bucket keeps no versions."""
        with _explained():
            return self._s3.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=body, ContentType=content_type,
                                       ChecksumAlgorithm="SHA256").get("VersionId")

    def get(self, key: str, version: str | None = None) -> bytes:
        """botocore tries a request again, but not a body that breaks off: that is done here."""
        broken: Exception | None = None
        with _explained():
            for _ in range(self._attempts):
                body = self._ask(key, version)["Body"]
                try:
                    return body.read()
                except _BROKEN_BODY as error:
                    broken = error
        raise Unavailable("The object store breaks off in the middle. Try again in a moment.") from broken

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
        if version is None:
            return self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
        return self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key, VersionId=version)


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
    bad_version = code == "InvalidArgument" and "version" in error.response["Error"].get("Message", "").lower()
    if code in _MISSING or bad_version:
        return NotFound("The picture is not stored. It was deleted, or never came.")
    return BadSettings(f"The object store refuses: expected the right to {error.operation_name}, got {code}. "
                       "Grant it on the bucket that SHUTTERLESS_OBJECTS or MODEL_URI names, to this server's role.")
