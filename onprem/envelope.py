"""What every answer carries, whatever its route: a request id, its time, and a door that may be locked."""

from __future__ import annotations

import hmac
import logging
import uuid
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onprem.answers import problem_answer

OPEN_PATHS = ("/", "/health")

log = logging.getLogger(__name__)


class Envelope:
    """Middleware, outside of all routes and inside of CORS: preflight requests do not come here.

    request_id: made here for every request, in `scope["state"]`; the record of an upload bears the same.
    api_keys: one of them must come in x-api-key, except for OPEN_PATHS; none leaves the door open.
    """

    def __init__(self, app: ASGIApp, *, api_keys: tuple[str, ...]) -> None:
        self._app = app
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        answer = _Answer(send, request_id, has_body=scope["method"] != "HEAD")
        inner = dict(scope) | {"state": scope.get("state", {}) | {"request_id": request_id},
                               "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
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

    def _may_enter(self, scope: Scope) -> bool:
        if not self._keys or scope["path"] in OPEN_PATHS:
            return True
        shown = next((value for name, value in scope["headers"] if name == b"x-api-key"), b"")
        fits = [hmac.compare_digest(shown, key) for key in self._keys]  # all of them, so that each try takes as long
        return any(fits)


class _Answer:
    """Puts the headers on as the answer passes; for HEAD, takes the body away."""

    def __init__(self, send: Send, request_id: str, *, has_body: bool) -> None:
        self._send, self._request_id, self._has_body = send, request_id, has_body
        self._started = perf_counter()
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            total_ms = (perf_counter() - self._started) * 1000
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode()),
                                  (b"server-timing", b"total;dur=%.2f" % total_ms)]
        elif not self._has_body:
            message["body"] = b""
        await self._send(message)
