"""A client of the deployed API, as one on another machine would be: HTTP, a key, and nothing else."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from random import Random
from struct import pack
from typing import Any
from urllib.parse import urlsplit
from zlib import compress, crc32

from PIL import Image

from rehearsal.watched import CheckFailed

JPEG = "image/jpeg"
ANSWER_S = 120.0  # a cold start, on a machine that does everything else as well
DONE_S, ROOM_S, PAUSE_S = 180.0, 60.0, 0.2
LOST = (500, 502, 504)  # where a copy of a function starts too slowly: who is told so cannot know what was taken, and comes again
BUSY = (429, 503, *LOST)


@dataclass(frozen=True)
class Answer:
    """Of one request. headers: names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises CheckFailed for anything else."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise CheckFailed(f"expected JSON, got {self.status} {self.body[:200]!r}") from None


@dataclass(frozen=True)
class Client:
    """base: the API's address, to its stage. key: the API key, or None for a client that has none."""

    base: str
    key: str | None

    def ask(self, method: str, path: str, body: bytes | None = None, *, expect: int | None = None, **headers: str) -> Answer:
        """One request; names of headers with _ for -. Raises CheckFailed for another status than `expect`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = request(method, self.base + path, body, {**({"x-api-key": self.key} if self.key else {}), **sent})
        if expect is not None and answer.status != expect:
            raise CheckFailed(f"{method} {path}: expected {expect}, got {answer.status} {answer.body[:300]!r}")
        return answer

    def upload(self, picture: bytes, query: str = "") -> str:
        """POST /upload-image, again where there is no room. Returns the request's id. Raises CheckFailed."""
        deadline = time.monotonic() + ROOM_S
        while (answer := self.ask("POST", f"/upload-image{query}", picture, content_type=JPEG)).status in BUSY:
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        if answer.status != 202:
            raise CheckFailed(f"POST /upload-image: expected 202, got {answer.status} {answer.body[:300]!r}")
        return str(answer.json()["request_id"])

    def record(self, request_id: str) -> dict[str, Any]:
        """GET /results of one picture."""
        found = self.ask("GET", f"/results?request_id={request_id}", expect=200).json()["results"]
        return dict(found[0])

    def outcome(self, request_id: str, within_s: float = DONE_S) -> dict[str, Any]:
        """Its record, when it is done or failed. Raises CheckFailed where it does not come to that."""
        deadline = time.monotonic() + within_s
        while True:
            record = self.record(request_id)
            if record["status"] in ("done", "failed"):
                return record
            if time.monotonic() > deadline:
                raise CheckFailed(f"{request_id}: expected an outcome within {within_s:.0f} s, got {record['status']}")
            time.sleep(PAUSE_S)


def request(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """One request of one connection. Follows no redirect. Raises CheckFailed where no answer comes, OSError."""
    address = urlsplit(url)
    connection = HTTPConnection(address.hostname or "", address.port or 80, timeout=ANSWER_S)
    try:
        path = f"{address.path}?{address.query}" if address.query else address.path
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    except TimeoutError:
        raise CheckFailed(f"{method} {address.path}: expected an answer within {ANSWER_S:.0f} s, got none") from None
    finally:
        connection.close()


def form(fields: Mapping[str, str], picture: bytes) -> tuple[bytes, str]:
    """multipart/form-data with these fields and, last, the file: body and content type."""
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
             for key, value in fields.items()]
    parts += [f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="tile.jpg"\r\n'
              "Content-Type: image/jpeg\r\n\r\n".encode(), picture, f"\r\n--{boundary}--\r\n".encode()]
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"


def tile(seed: int) -> bytes:
    """A JPEG of 64x64 that no other seed gives."""
    random = Random(seed)  # noqa: S311  a picture, not a secret
    small = Image.frombytes("RGB", (8, 8), random.randbytes(8 * 8 * 3))
    written = io.BytesIO()
    small.resize((64, 64), Image.Resampling.BICUBIC).save(written, "JPEG", quality=92)
    return written.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 1,600 million pixels."""
    return b"\x89PNG\r\n\x1a\n" + b"".join([
        _chunk(b"IHDR", pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)), _chunk(b"IDAT", compress(bytes(5_001))),
        _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return pack(">I", len(content)) + kind + content + pack(">I", crc32(kind + content))
