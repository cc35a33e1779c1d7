"""What every answer carries, whatever its route: a request id, its time, and a door that may be locked."""

from __future__ import annotations

import hmac
import logging
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onprem.answers import problem_answer
from onprem.forms import PATH as FORM_PATH
from onprem.keys import Keys
from onprem.rates import Rates
from onprem.tallies import GONE, Tallies

OPEN_PATHS = ("/", "/health", "/health/live", "/health/ready", FORM_PATH)
METRICS_PATH = "/metrics"
IDS_AT_A_TIME = 64  # to ask the system for each, and to make each by itself, would take longer than all else that is done here

log = logging.getLogger(__name__)


class Gate:
    """Who may come in, and what each request is called.

    keys: one of them must come in x-api-key, except for OPEN_PATHS. rates: how often each may be used; who asks too often is
    told when to come back. metrics_key: opens /metrics alone, as a bearer token, since that is what Prometheus can send.
    """

    def __init__(self, *, keys: Keys, rates: Rates, metrics_key: str | None) -> None:
        self._keys, self._rates = keys, rates
        self._metrics_token = f"Bearer {metrics_key}".encode() if metrics_key else None
        self._ids = _request_ids()

    def named(self, scope: Scope) -> dict[str, Any]:
        """A request's state, with what each gets here. request_id: the record of an upload bears the same. holder: whose key
        came; None where none is asked for."""
        return {**scope.get("state", {}), "request_id": next(self._ids), "holder": None}

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to who must not come in now."""
        state = scope["state"]
        if scope["path"] in OPEN_PATHS or self._may_scrape(scope):
            return None
        if not self._keys.is_open:
            state["holder"] = self._keys.holder(header(scope, b"x-api-key"))
            if state["holder"] is None:
                return problem_answer(403, state["request_id"])
        wait_s = self._rates.wait_s(state["holder"] or b"")
        return problem_answer(429, state["request_id"], headers={"retry-after": str(math.ceil(wait_s))}) if wait_s else None

    def _may_scrape(self, scope: Scope) -> bool:
        if self._metrics_token is None or scope["path"] != METRICS_PATH:
            return False
        return hmac.compare_digest(header(scope, b"authorization"), self._metrics_token)


class Envelope:
    """Middleware, outside of all routes and inside of CORS: preflight requests do not come here."""

    def __init__(self, app: ASGIApp, *, gate: Gate, tallies: Tallies) -> None:
        self._app, self._gate, self._tallies = app, gate, tallies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inner = {**scope, "state": self._gate.named(scope), "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        request_id = inner["state"]["request_id"]
        answer = _Answer(send, request_id, has_body=scope["method"] != "HEAD")
        self._tallies.began()
        try:
            refusal = self._gate.refusal(inner)
            await (refusal or self._app)(inner, receive, answer.send)
        except ClientDisconnect:
            return
        except Exception as error:  # ours
            failed = failure(error, {**inner, "method": scope["method"]})
            if answer.begun:
                raise  # too late for another answer: the connection is cut
            await failed(inner, receive, answer.send)
        finally:
            self._tallies.answered(inner, answer.status, answer.elapsed_s())


def _request_ids() -> Iterator[str]:
    """Random UUIDs, without end."""
    while True:
        drawn = os.urandom(16 * IDS_AT_A_TIME)
        yield from [str(uuid.UUID(bytes=drawn[start:start + 16], version=4)) for start in range(0, len(drawn), 16)]


def header(scope: Scope, name: bytes) -> bytes:
    """A request's first header of that name, which is in lower case; empty without one."""
    return next((value for sent, value in scope["headers"] if sent == name), b"")


def failure(error: BaseException, scope: Scope) -> Response:
    """The answer where something of ours failed: the log gets the trace, the client a problem."""
    request_id = scope["state"]["request_id"]
    log.error("Request %s failed: %s %r", request_id, scope["method"], scope["path"], exc_info=error)
    return problem_answer(error, request_id)


def stamped(headers: Iterable[tuple[bytes, bytes]], request_id: str, seconds: float) -> list[tuple[bytes, bytes]]:
    """An answer's headers, with those that all have."""
    return [*headers, (b"x-request-id", request_id.encode()), (b"server-timing", b"total;dur=%.2f" % (1000 * seconds))]


class _Answer:
    """Puts the headers on as the answer passes; for HEAD, takes the body away. status: GONE until an answer begins."""

    def __init__(self, send: Send, request_id: str, *, has_body: bool) -> None:
        self._send, self._request_id, self._has_body = send, request_id, has_body
        self._started = perf_counter()
        self.begun = False
        self.status = GONE

    def elapsed_s(self) -> float:
        return perf_counter() - self._started

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun, self.status = True, message["status"]
            message["headers"] = stamped(message.get("headers", ()), self._request_id, self.elapsed_s())
        elif not self._has_body:
            message["body"] = b""
        await self._send(message)
