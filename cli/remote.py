"""A server of this project, asked over HTTP: kept-alive connections, and patience with one that is busy or away."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from shutterless.errors import BadPicture, BadRequest, Permanent, Unavailable
from shutterless.formats import sniff

TRIES, TRIES_AT_FIRST = 8, 3  # at first, a mistyped address is likelier than a server that is away
TIMEOUT_S = 60
LONGEST_WAIT_S = 60.0
FIRST_WAIT_S = 0.5
AGAIN = (408, 429, 502, 503, 504)
EVERYWHERE = {  # what is wrong with all pictures, and not with one
    401: "Give its key: SHUTTERLESS_API_KEYS, in the environment or in .env.",
    403: "Give its key: SHUTTERLESS_API_KEYS, in the environment or in .env.",
    404: "Check the address and the model: --to takes what stands before /predict.",
    405: "Check the address: --to takes what stands before /predict."}


class Refused(Permanent):
    """The server answers, but will not take any picture like this."""


class Remote:
    """Any number of threads may ask at the same time, over as many connections."""

    def __init__(self, url: str, key: str = "") -> None:
        """Raises BadRequest for what is no http or https address."""
        if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(/[!-~]*)?", url) or "?" in url:
            raise BadRequest(f"--to: expected an address like http://localhost:8000, got {url[:80]!r}. Correct it.")
        self._place = urlsplit(url)
        self._path = self._place.path.rstrip("/")
        self._key = {"x-api-key": key} if key else {}
        self._idle: list[HTTPConnection] = []
        self._closed = threading.Event()

    def close(self) -> None:
        """Wait for nothing any more: calls that are under way end with their next answer."""
        self._closed.set()
        while self._idle:
            self._idle.pop().close()

    def models(self) -> list[dict[str, Any]]:
        """GET /models. Raises Refused, Unavailable."""
        listed = self._answer("GET", "/models", b"", {}, TRIES_AT_FIRST).get("models")
        if not isinstance(listed, list):
            raise Refused(f"Expected {self._place.netloc} to list its models, got something else. Check the address.")
        return listed

    def predict(self, picture: bytes, **query: str) -> dict[str, Any]:
        """POST /predict. Raises BadPicture for this picture, Refused for every picture, Unavailable after TRIES tries."""
        found = sniff(picture)
        kind = found.content_type if found else "application/octet-stream"
        return self._answer("POST", f"/predict?{urlencode(query)}" if query else "/predict", picture, {"Content-Type": kind})

    def _answer(self, method: str, path: str, body: bytes, headers: Mapping[str, str], tries: int = TRIES) -> dict[str, Any]:
        reason = ""
        for attempt in range(tries):
            try:
                status, again_s, content = self._once(method, path, body, headers)
            except (OSError, HTTPException) as error:
                status, again_s, reason = 0, None, f"{type(error).__name__}: {error}"
            else:
                if status == 200:
                    return self._object(content)
                reason = self._detail(status, content)
                if status not in AGAIN:
                    raise self._refusal(status, reason)
            if attempt + 1 == tries or self._closed.wait(wait_s(attempt, again_s)):
                break
        raise Unavailable(f"Expected an answer from {self._place.netloc}, got none in {tries} tries; the last time: "
                          f"{reason.rstrip('.')}. Send again later: what was answered is kept.")

    def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, float | None, bytes]:
        """Status, seconds of Retry-After, body. A connection that fails is not used again."""
        connection = self._connection()
        try:
            connection.request(method, self._path + path, body, {**headers, **self._key})
            answered = connection.getresponse()
            found = answered.status, seconds(answered.headers.get("Retry-After")), answered.read()
        except (OSError, HTTPException):
            connection.close()
            raise
        if self._closed.is_set():
            connection.close()
        else:
            self._idle.append(connection)
        return found

    def _connection(self) -> HTTPConnection:
        try:
            return self._idle.pop()
        except IndexError:
            kind = HTTPSConnection if self._place.scheme == "https" else HTTPConnection
            return kind(self._place.hostname or "", self._place.port, timeout=TIMEOUT_S)

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Refused(f"Expected {self._place.netloc} to answer with JSON, got something else. Check the address.")
        return answer

    @staticmethod
    def _detail(status: int, content: bytes) -> str:
        """The server's own sentence, where it is one of ours."""
        try:
            said = json.loads(content)
            return f"{status}, {said.get('detail') or said.get('message') or said.get('title')}"
        except (ValueError, AttributeError):
            return str(status)

    def _refusal(self, status: int, reason: str) -> Permanent:
        if status in EVERYWHERE:
            return Refused(f"{self._place.netloc} answered {reason} {EVERYWHERE[status]}")
        return BadPicture(reason)


def wait_s(attempt: int, again_s: float | None) -> float:
    """As long as the server asks for, within a minute; else doubling from half a second; and up to a quarter more, so that
    those who were refused together do not come back together."""
    asked = FIRST_WAIT_S * 2**attempt if again_s is None else again_s
    return min(asked, LONGEST_WAIT_S) * random.uniform(1, 1.25)  # noqa: S311  no secret


def seconds(retry_after: str | None) -> float | None:
    """Retry-After as a number; None where it is not there, or a date."""
    return float(retry_after) if retry_after and retry_after.strip().isdecimal() else None
