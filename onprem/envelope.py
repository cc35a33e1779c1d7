"""What every answer carries, whatever its route: a request id, its time, and a door that may be locked."""

from __future__ import annotations

import hmac
import logging
import math
import os
import uuid
from collections.abc import Iterator
from time import perf_counter

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
IDS_AT_A_TIME = 64  # to ask the system for each would take longer than all else that is done here

log = logging.getLogger(__name__)


class Envelope:
    """Middleware, outside of all routes and inside of CORS: preflight requests do not come here.

    request_id: made here for every request, in `scope["state"]`; the record of an upload bears the same. holder, beside it: whose
    key came; None where none is asked for.
    keys: one of them must come in x-api-key, except for OPEN_PATHS. rates: how often each may be used; who asks too often is
    told when to come back. metrics_key: opens /metrics alone, as a bearer token, since that is what Prometheus can send.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, rates: Rates, metrics_key: str | None, tallies: Tallies) -> None:
        self._app, self._keys, self._rates, self._tallies = app, keys, rates, tallies
        self._metrics_token = f"Bearer {metrics_key}".encode() if metrics_key else None
        self._ids = _request_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = next(self._ids)
        answer = _Answer(send, request_id, has_body=scope["method"] != "HEAD")
        inner = {**scope, "state": {**scope.get("state", {}), "request_id": request_id, "holder": None},
                 "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        self._tallies.began()
        try:
            refusal = self._refusal(inner)
            await (refusal or self._app)(inner, receive, answer.send)
        except ClientDisconnect:
            return
        except Exception as error:  # ours: the log gets the trace, the client a problem
            log.exception("Request %s failed: %s %r", request_id, scope["method"], scope["path"])
            if answer.begun:
                raise  # too late for another answer: the connection is cut
            await problem_answer(error, request_id)(inner, receive, answer.send)
        finally:
            self._tallies.answered(inner, answer.status, answer.elapsed_s())

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to who must not come in now."""
        state = scope["state"]
        if scope["path"] in OPEN_PATHS or self._may_scrape(scope):
            return None
        if not self._keys.is_open:
            state["holder"] = self._keys.holder(_header(scope, b"x-api-key"))
            if state["holder"] is None:
                return problem_answer(403, state["request_id"])
        wait_s = self._rates.wait_s(state["holder"] or b"")
        return problem_answer(429, state["request_id"], headers={"retry-after": str(math.ceil(wait_s))}) if wait_s else None

    def _may_scrape(self, scope: Scope) -> bool:
        if self._metrics_token is None or scope["path"] != METRICS_PATH:
            return False
        return hmac.compare_digest(_header(scope, b"authorization"), self._metrics_token)


def _request_ids() -> Iterator[str]:
    """Random UUIDs, without end."""
    while True:
        drawn = os.urandom(16 * IDS_AT_A_TIME)
        for start in range(0, len(drawn), 16):
            yield str(uuid.UUID(bytes=drawn[start:start + 16], version=4))


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for sent, value in scope["headers"] if sent == name), b"")


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
            total_ms = self.elapsed_s() * 1000
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode()),
                                  (b"server-timing", b"total;dur=%.2f" % total_ms)]
        elif not self._has_body:
            message["body"] = b""
        await self._send(message)
