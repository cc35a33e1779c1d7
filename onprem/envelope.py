"""What every answer carries, whatever its route: a request id, its time, and a door that may be locked."""

from __future__ import annotations

import hmac
import logging
import uuid
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onprem.answers import problem_answer
from onprem.tallies import GONE, Tallies

OPEN_PATHS = ("/", "/health")
METRICS_PATH = "/metrics"

log = logging.getLogger(__name__)


class Envelope:
    """Middleware, outside of all routes and inside of CORS: preflight requests do not come here.

    request_id: made here for every request, in `scope["state"]`; the record of an upload bears the same.
    api_keys: one of them must come in x-api-key, except for OPEN_PATHS; none leaves the door open.
    metrics_key: opens /metrics alone, as a bearer token, since that is what Prometheus can send.
    """

    def __init__(self, app: ASGIApp, *, api_keys: tuple[str, ...], metrics_key: str | None, tallies: Tallies) -> None:
        self._app, self._tallies = app, tallies
        self._metrics_token = f"Bearer {metrics_key}".encode() if metrics_key else None
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        answer = _Answer(send, request_id, has_body=scope["method"] != "HEAD")
        inner = dict(scope) | {"state": scope.get("state", {}) | {"request_id": request_id},
                               "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        self._tallies.began()
        try:
            if self._may_enter(scope):
                await self._app(inner, receive, answer.send)
            else:
                await problem_answer(403, request_id)(inner, receive, answer.send)
        except ClientDisconnect:
            return
        except Exception as error:
            log.exception("Request %s failed: %s %r", request_id, scope["method"], scope["path"])
            if answer.begun:
                raise  # too late for another answer: the connection is cut
            await problem_answer(error, request_id)(inner, receive, answer.send)
        finally:
            self._tallies.answered(inner, answer.status, answer.elapsed_s())

    def _may_enter(self, scope: Scope) -> bool:
        if not self._keys or scope["path"] in OPEN_PATHS:
            return True
        shown = next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
        fits = [hmac.compare_digest(shown, key) for key in self._keys]  # all of them, so that each try takes as long
        return any(fits) or self._may_scrape(scope)

    def _may_scrape(self, scope: Scope) -> bool:
        if self._metrics_token is None or scope["path"] != METRICS_PATH:
            return False
        shown = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(shown, self._metrics_token)


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
