"""S3 for a container that starts cold: GET alone, signed by hand, over http.client. All else is `shutterless.aws`."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from shutterless.credentials import CredentialSource
from shutterless.errors import BadBundle, BadSettings, NotFound, Unavailable
from shutterless.sigv4 import Signer, target

ATTEMPTS = 5
PAUSE_S = 0.1  # before the second attempt; twice as long before each further one, and up to as long again by chance
CONNECT_S, READ_S = 2.0, 5.0  # each silence, not the whole transfer
PASSING = {"RequestTimeout", "ExpiredToken", "SlowDown", "OperationAborted"}  # whatever their status
MISSING = {"NoSuchKey", "404"}

_SHORTER = "{}: expected an object as long as the manifest says, S3 has a shorter one. Publish the bundle again."
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")


class Bucket:
    """Objects of one bucket. Each thread has a connection of its own, which stays open for the next object.

    environ: region, endpoint and, through `credentials`, whose name to sign in.
    """

    def __init__(self, name: str, environ: Mapping[str, str], credentials: CredentialSource) -> None:
        self._name, self._credentials = name, credentials
        self._region = _region(environ)
        self._url, self._prefix = place(name, environ)
        self._ca = environ.get("AWS_CA_BUNDLE") or None
        self._thread = threading.local()

    def get(self, key: str, first: int = 0, length: int | None = None) -> bytes:
        """The object's bytes, or `length` of them from `first`; tried again, ATTEMPTS times in all.

        Raises NotFound, BadSettings where S3 refuses, Unavailable where it does not answer or breaks off.
        """
        failure: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1) * (1 + random.random()))  # noqa: S311  no secret
            try:
                return self._ask(key, first, length)
            except (OSError, HTTPException, _Passing) as error:
                failure = error
                self._close()
        raise Unavailable(f"S3 does not answer, or breaks off in the middle, {ATTEMPTS} times in a row. Try again in a "
                          "moment.") from failure

    def _ask(self, key: str, first: int, length: int | None) -> bytes:
        wanted = {} if length is None else {"range": f"bytes={first}-{first + length - 1}"}
        path = f"{self._prefix}/{key}"
        signer = Signer(service="s3", region=self._region, credentials=self._credentials.get())
        connection = self._connection()
        connection.request("GET", target(path), headers=signer.headers("GET", urlsplit(self._url).netloc, path, headers=wanted))
        response = connection.getresponse()
        body = response.read()  # IncompleteRead, an HTTPException, when it breaks off
        if response.status not in (200, 206):
            raise self._refusal(key, response, body)
        if response.status == 200 and length is not None:
            body = body[first:first + length]  # an emulator that knows no ranges
        if length is not None and len(body) != length:
            raise BadBundle(_SHORTER.format(key))
        return body

    def _refusal(self, key: str, response: HTTPResponse, body: bytes) -> Exception:
        found = _CODE.search(body[:4096])
        code = found[1].decode() if found else str(response.status)
        if response.status >= 500 or response.status == 429 or code in PASSING:
            if code == "ExpiredToken":
                self._credentials.forget()
            return _Passing(code)
        if code == "InvalidRange":
            return BadBundle(_SHORTER.format(key))
        if code in MISSING:
            return NotFound(f"s3://{self._name} has no such object. Check the address, and that it was published.")
        region = response.getheader("x-amz-bucket-region")
        if region and region != self._region:
            return BadSettings(f"s3://{self._name}: expected a bucket in {self._region} (AWS_REGION), got one in {region}. "
                               f"Set AWS_REGION={region}, or publish to a bucket in {self._region}.")
        return BadSettings(f"s3://{self._name}: expected the right to s3:GetObject, got {code}. Grant it to this function's role "
                           "(with s3:ListBucket, a missing object says so itself), and check the bucket's name.")

    def _connection(self) -> HTTPConnection:
        connection: HTTPConnection | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = self._thread.connection = self._open()
        return connection

    def _open(self) -> HTTPConnection:
        parts = urlsplit(self._url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":
            connection = HTTPConnection(host, port, timeout=CONNECT_S)
        else:
            import ssl

            connection = HTTPSConnection(host, port, timeout=CONNECT_S, context=ssl.create_default_context(cafile=self._ca))
        connection.connect()
        connection.sock.settimeout(READ_S)
        return connection

    def _close(self) -> None:
        connection: HTTPConnection | None = getattr(self._thread, "connection", None)
        if connection is not None:
            connection.close()
            self._thread.connection = None


class _Passing(Exception):
    """An answer that may be another the next time."""


def place(bucket: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Address of the endpoint, and what goes before the key: an emulator, and a name with a dot, which no certificate fits,
    have the bucket in the path. Raises BadSettings."""
    region = _region(environ)
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        if not re.fullmatch(r"https?://[^/?#\s]+/?", endpoint):
            raise BadSettings(f"AWS_ENDPOINT_URL: expected http://HOST:PORT or https://HOST, got {endpoint[:80]!r}. Correct it.")
        return endpoint.rstrip("/"), f"/{bucket}"
    domain = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
    return (f"https://{domain}", f"/{bucket}") if "." in bucket else (f"https://{bucket}.{domain}", "")


def _region(environ: Mapping[str, str]) -> str:
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise BadSettings("AWS_REGION: expected the region of the bucket, got nothing. Set it.")
    return region
