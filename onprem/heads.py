"""Request heads within bounds: uvicorn bounds neither the request line nor the headers, and asks nobody before it reads."""

from __future__ import annotations

import uuid

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shutterless.problems import CONTENT_TYPE, problem

MAX_HEAD_BYTES = 65_536  # with one read of the socket on top; proxies and clients stop at 8 to 32 kB


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which cuts a head that goes on, and answers what is not HTTP with a problem."""

    _head_bytes = 0
    _in_head = True

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"The request line and its headers: expected at most {MAX_HEAD_BYTES:,} bytes, got more. "
                              "Send less in them; the picture belongs into the body.")

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Expected an HTTP/1.1 request, got something else. Let an HTTP library write it.")

    def _refuse(self, status: int, detail: str) -> None:
        body = orjson.dumps(problem(status, str(uuid.uuid4()), detail))
        head = (f"HTTP/1.1 {status} Refused", f"content-type: {CONTENT_TYPE}", f"content-length: {len(body)}",
                "connection: close")
        self.transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        self.transport.close()
