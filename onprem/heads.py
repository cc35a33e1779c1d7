"""Connections within bounds: how many, the bytes and the time of each request's head, and how slowly an answer may be read.
uvicorn bounds none of these, and asks nobody before it reads."""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import TYPE_CHECKING

import orjson
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from onprem.corks import Cork
from shutterless.problems import CONTENT_TYPE, problem

if TYPE_CHECKING:
    from onprem.express import Express

HEAD_S = 20.0  # from the connection, or the first bytes of a later head, to its end; bodies have the same grace
MAX_HEAD_BYTES = 65_536  # with one read of the socket on top; proxies and clients stop at 8 to 32 kB
YOUNG_HEAD_S = 2.0  # so long it is left in peace where there are too many connections
READ_S = 30.0  # an answer that waits to be read is looked at so often
MIN_BYTES_PER_S = 1_000  # that a client has to read in that time
CONNECTION = "connection"  # in a request's state: over which one it came; a proxy's headers change the client's address
WHOLE = "whole"  # in a request's state, where its body came before anybody asked for it
HELD_S = 0.05  # for the rest of a body that may go past ASGI: many clients send it right after the head, in a packet of its own
_UPGRADE = re.compile(rb"(?i)\r\nupgrade:")


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which cuts a head that goes on or does not come, answers what is not HTTP with a problem, hangs up on
    who does not read, and closes idle connections and slow heads where there are too many. `bounded_to` says how many."""

    max_connections = 4_096
    express: Express | None = None
    _is_feeding = False
    _held: RequestResponseCycle | None = None  # it may take the short way when its body is here
    _holding: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None
    _since = 0.0  # it waits: from the connection, the last answer, or the first bytes of a head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(transport)
        self._cork = Cork(transport, self.loop)
        self._since = self.loop.time()
        if len(self.connections) > self.max_connections and not self._make_room():
            self._refuse(503, "The server has as many connections as it may. Try again in a second.", "retry-after: 1")
            return
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._forget_reading()
        super().connection_lost(exc)
        self._take_the_long_way()  # where it is told that nobody waits

    def pause_writing(self) -> None:
        """More is to be sent than the client reads at the moment."""
        super().pause_writing()
        self._expect_reading(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._forget_reading()
        super().resume_writing()

    def on_response_complete(self) -> None:
        self._cork.flush()  # whoever closes the connection from now on finds nothing held
        self._since = self.loop.time()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            if not self._head_bytes:
                self._since = self.loop.time()
            self._head_bytes += len(data)
            data = _without_upgrade(data)
        self._is_feeding = True
        try:
            super().data_received(data)
        finally:
            self._is_feeding = False
        if self.express is not None and self._held is not None:
            self._look_at_held(self.express, self._held)
        if not self._in_head or not self._head_bytes or self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"The request line and its headers: expected at most {MAX_HEAD_BYTES:,} bytes, got more. "
                              "Send less in them; the picture belongs into the body.")
        elif self._deadline is None:
            self._set_deadline()

    def on_headers_complete(self) -> None:
        self._forget_deadline()
        self._in_head, self._head_bytes = False, 0
        self.scope["state"][CONNECTION] = id(self)
        super().on_headers_complete()
        self.cycle.transport = self._cork  # type: ignore[assignment]  # all of it that a cycle uses
        if self.parser.should_upgrade():  # the parser takes no body of such a request: what comes after it is no request either
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._in_head = True
        if not self.parser.should_upgrade():
            self.scope["state"][WHOLE] = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Expected an HTTP/1.1 request, got something else. Let an HTTP library write it.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        may_hold = self._is_feeding and not self.flow.write_paused and not self.parser.should_upgrade()
        if self.express is not None and may_hold and self.express.takes(cycle):
            self._held = cycle
        else:
            super()._start_asgi_task(cycle, app)

    def _look_at_held(self, express: Express, cycle: RequestResponseCycle) -> None:
        if self.transport.is_closing() or len(cycle.body) > express.most_bytes:
            self._take_the_long_way()
        elif not cycle.more_body:
            self._let_go()
            express(cycle, self.transport, id(self))
        elif self._holding is None:
            self._holding = self.loop.call_later(HELD_S, self._take_the_long_way)

    def _take_the_long_way(self) -> None:
        cycle = self._held
        self._let_go()
        if cycle is not None:
            super()._start_asgi_task(cycle, self.app)

    def _let_go(self) -> None:
        self._held = None
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    def _make_room(self) -> bool:
        """Close the connection that has waited for longest, idle or slow with a head; False where each has a request under way,
        or a young head. Not idle ones first: one of a moment ago, whose head is on its way, must not go before a slow one."""
        others = (other for other in self.connections if isinstance(other, BoundedHeads) and other is not self)
        waiting = [other for other in others if other._waits()]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda other: other._since)
        self.connections.discard(oldest)
        if oldest._head_bytes and not oldest.transport.get_write_buffer_size():
            oldest._refuse_slow_head()
            self.loop.call_later(YOUNG_HEAD_S, oldest.transport.abort)  # it is counted no longer: so long it may read that
        else:
            oldest.transport.abort()
        return True

    def _waits(self) -> bool:
        """No answer is under way; of a request nothing came, or a part of its head that began to come a while ago. Or the end of
        the last answer has not been read for long: closed or not, such a connection would stay for ever."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        since_s = self.loop.time() - self._since
        if self.transport.get_write_buffer_size():
            return since_s > READ_S
        return self._in_head and not self.transport.is_closing() and (not self._head_bytes or since_s > YOUNG_HEAD_S)

    def _expect_reading(self, before: int) -> None:
        self._reading = self.loop.call_later(READ_S, self._look_at_reading, before)

    def _look_at_reading(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < MIN_BYTES_PER_S * READ_S:
            self.transport.abort()  # close() would wait until it is read
        else:
            self._expect_reading(left)

    def _forget_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_deadline()  # the answer to an earlier request is under way: nothing may cut through it
        elif self._head_bytes:
            self._refuse_slow_head()
        else:
            self.transport.close()  # nothing came that could be answered

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse_slow_head(self) -> None:
        self._refuse(408, "The request line and its headers came too slowly. Send them again, over a faster connection.")

    def _refuse(self, status: int, detail: str, *headers: str) -> None:
        body = orjson.dumps(problem(status, str(uuid.uuid4()), detail))
        head = (f"HTTP/1.1 {status} Refused", f"content-type: {CONTENT_TYPE}", f"content-length: {len(body)}",
                "connection: close", *headers)
        self._cork.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)  # after what an answer has written
        self._cork.close()


def _without_upgrade(data: bytes) -> bytes:
    """The header that offers another protocol, as some clients do with each request (h2c), becomes one that nobody reads: a
    server may ignore it (RFC 9110, section 7.8). It is found where it came whole in one piece."""
    end = data.find(b"\r\n\r\n")
    found = _UPGRADE.search(data, 0, end + 2 if end >= 0 else len(data))
    return data if found is None else data[:found.start()] + b"\r\nx-offer:" + data[found.end():]


def bounded_to(max_connections: int, express: Express | None = None) -> type[BoundedHeads]:
    """The protocol of a server that takes so many connections at the same time. express: the short way for what it takes."""
    return type("BoundedHeads", (BoundedHeads,), {"max_connections": max_connections, "express": express})


def is_whole(scope: Scope) -> bool:
    """Whether the request's body is all here, so that nobody has to wait for it. False where that is not known."""
    return WHOLE in scope.get("state", ())
