"""An answer's head and its body in one write."""

from __future__ import annotations

import asyncio

SMALL_BYTES = 16_384  # more than that is not copied to be sent with what came before it


class Cork:
    """What uvicorn's cycle sees of a transport while it writes an answer, head first. A small piece is held until the next one
    comes, or until the event loop has done what is due now: two writes would be two packets, and wake the client twice."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, b""

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if self._held and len(data) <= SMALL_BYTES:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        elif len(data) <= SMALL_BYTES:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Send what is held. Nothing, where the connection is gone."""
        if self._held and not self._transport.is_closing():
            self._transport.write(self._held)
        self._held = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()
