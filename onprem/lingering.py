"""An answer before the end of the request: it is sent at once, and the connection is closed without losing it.

To close while bytes come in makes the system reset the connection, and a client that sends all before it reads never
sees the answer. To keep it open lets a client send for ever. So: answer, read on for a while, close (nginx calls it a
lingering close, RFC 9112 section 9.6 describes it).
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onprem.heads import is_whole

LINGER_BYTES = 100_000_000
LINGER_S = 10.0


class Lingering:
    """Middleware, outside of all that may refuse a request by its head or by a part of its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_whole(scope) and _announces_a_body(scope):
            exchange = _Exchange(receive, send)
            receive, send = exchange.receive, exchange.send
        await self._app(scope, receive, send)


class _Exchange:
    """One request with a body, and its answer. `early`: the answer began before the body had ended."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._ended = self._early = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = self._ended or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._ended:
            self._early = True
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        elif self._early and not message.get("more_body", False):
            await self._send({**message, "more_body": True})  # all of the answer, but not yet its end
            await self._read_on()
            message["body"] = b""
        await self._send(message)

    async def _read_on(self) -> None:
        """Throw away what still comes, within limits."""
        read_bytes = 0
        try:
            async with asyncio.timeout(LINGER_S):
                while not self._ended and read_bytes < LINGER_BYTES:
                    read_bytes += len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _announces_a_body(scope: Scope) -> bool:
    return any(name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
               for name, value in scope["headers"])
