"""Request heads within bounds: uvicorn bounds neither their bytes nor their time, and asks nobody before it reads."""

from __future__ import annotations

import asyncio
import uuid

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shutterless.problems import CONTENT_TYPE, problem

HEAD_S = 20.0  # from the connection, or the first bytes of a later head, to its end; bodies have the same grace
MAX_HEAD_BYTES = 65_536  # with one read of the socket on top; proxies and clients stop at 8 to 32 kB


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which cuts a head that goes on or does not come, and answers what is not HTTP with a problem."""

    _head_bytes = 0
    _in_head = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(transport)
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
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
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Expected an HTTP/1.1 request, got something else. Let an HTTP library write it.")

    def _set_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self._lose_patience)

    def _lose_patience(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_deadline()  # the answer to an earlier request is under way: nothing may cut through it
        elif self._head_bytes:
            self._refuse(408, "The request line and its headers came too slowly. Send them again, over a faster connection.")
        else:
            self.transport.close()  # nothing came that could be answered

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: int, detail: str) -> None:
        body = orjson.dumps(problem(status, str(uuid.uuid4()), detail))
        head = (f"HTTP/1.1 {status} Refused", f"content-type: {CONTENT_TYPE}", f"content-length: {len(body)}",
                "connection: close")
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self.transport.close()
