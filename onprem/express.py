"""POST /predict past ASGI: from the connection to the batcher and back, without a task.

An event loop that serves two busy runners finds all caches cold: what it does for a request takes three times as long as in a
loop of its own. uvicorn's task, Starlette's request and response, and the layers around routes are two thirds of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import cast

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from onprem.answers import REFUSALS, refusal
from onprem.door import Door
from onprem.envelope import Gate, failure, header, stamped
from onprem.predictions import QUICK_BYTES, ask, told
from shutterless.classifier import Answer

JSON = (b"content-type", b"application/json")


class Express:
    """Answers what the routes would answer, each byte of it but for times and ids. Only the event loop calls it. A request that
    names the page from which it comes goes to the routes, whatever pages may.

    has_cors: whether any page may ask, so that caches are told that answers vary.
    """

    most_bytes = QUICK_BYTES  # of a body

    def __init__(self, door: Door, gate: Gate, *, has_cors: bool) -> None:
        self.door, self.gate = door, gate
        self.vary = [(b"vary", b"Origin")] if has_cors else []

    def takes(self, cycle: RequestResponseCycle) -> bool:
        """Whether this request may go this way, as far as its head tells."""
        scope = cast(Scope, cycle.scope)
        return (scope["path"] == "/predict" and scope["method"] == "POST" and not scope["query_string"]
                and not cycle.waiting_for_100_continue and all(name != b"origin" for name, _ in scope["headers"]))

    def __call__(self, cycle: RequestResponseCycle, transport: asyncio.Transport, connection: object) -> None:
        """Answer a request whose body is here, now or later."""
        _Exchange(self, cycle, transport).begin(connection)


class _Exchange:
    """One request and its answer."""

    def __init__(self, express: Express, cycle: RequestResponseCycle, transport: asyncio.Transport) -> None:
        self._express, self._door, self._cycle, self._transport = express, express.door, cycle, transport
        self._started = perf_counter()
        self._scope = cast(Scope, cycle.scope)
        self._scope["state"] = express.gate.named(self._scope)
        self._held_bytes: int | None = None

    def begin(self, connection: object) -> None:
        self._door.tallies.began()
        try:
            refused = self._express.gate.refusal(self._scope)
            answer = None if refused else self._asked(connection)
        except Exception as error:  # it reaches who asked
            refused, answer = self._refused(error), None
        if refused is not None:
            self._refuse(refused)
        elif isinstance(answer, asyncio.Future):
            answer.add_done_callback(lambda settled: self._tell(settled.result))
        elif answer is not None:
            self._tell(lambda: answer)

    def _asked(self, connection: object) -> Answer | asyncio.Future[Answer]:
        body = bytes(self._cycle.body)
        self._cycle.body = bytearray()
        self._door.intake.take_whole(len(body))
        self._held_bytes = len(body)
        return ask(self._door, header(self._scope, b"content-type").decode("latin-1"), body, connection)

    def _tell(self, result: Callable[[], Answer]) -> None:
        try:
            content, spent = told(self._door, result())
            body = orjson.dumps(content)
        except BaseException as error:  # it reaches who asked
            self._refuse(self._refused(error))
        else:
            self._end(200, [(b"server-timing", spent.encode()), (b"content-length", b"%d" % len(body)), JSON], body)

    def _refused(self, error: BaseException) -> Response:
        return refusal(Request(self._scope), error) if isinstance(error, REFUSALS) else failure(error, self._scope)

    def _refuse(self, answer: Response) -> None:
        self._end(answer.status_code, answer.raw_headers, answer.body)

    def _end(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes | memoryview) -> None:
        """Send all at once, and do what uvicorn's cycle does at the end of an answer."""
        cycle, elapsed_s = self._cycle, perf_counter() - self._started
        if self._held_bytes is not None:
            self._door.intake.release_whole(self._held_bytes)
        if not self._transport.is_closing():
            sent = [*cycle.default_headers, *stamped(headers, self._scope["state"]["request_id"], elapsed_s),
                    *self._express.vary]
            if not cycle.keep_alive:
                sent.append((b"connection", b"close"))
            lines = [b"%b: %b\r\n" % named for named in sent]
            self._transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
            if not cycle.keep_alive:
                self._transport.close()
        cycle.response_started = cycle.response_complete = True  # so that a connection that closes can be given up, too
        cycle.on_response()
        cycle.on_response = lambda: None  # or the connection and its last cycle would keep each other in memory
        self._door.tallies.answered(self._scope, status, elapsed_s)
