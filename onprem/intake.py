"""Request bodies within bounds: bytes of one, bytes and number of all that are held at the same time, and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request

from shutterless.bodies import FORM_BYTES
from shutterless.errors import Overloaded, TooLarge

GRACE_S = 20.0  # Apache's mod_reqtimeout defaults to the same grace, with 500 bytes/s after it
MIN_BYTES_PER_S = 10_000
HELD_BYTES = 128_000_000


class Intake:
    """Hands out whole bodies. Its counters are touched by the event loop only, so they need no lock.

    max_bytes: of a picture; its body may be half as long again (base64 in lines).
    max_requests: bodies that are whole, waiting or worked on, at the same time. One that is still coming takes no place, only its
    bytes: clients that send slowly keep nobody out.
    """

    def __init__(self, *, max_bytes: int, max_requests: int, held_bytes: int = HELD_BYTES) -> None:
        self.max_body_bytes = max_bytes * 3 // 2 + FORM_BYTES
        self.max_requests = max_requests
        self.max_held_bytes = max(held_bytes, self.max_body_bytes)
        self.requests = 0
        self.held_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted as held until the block ends: answer inside it.

        Raises TooLarge as soon as a byte too many is announced or arrives, Overloaded when too much is held already,
        and HTTP 408 when the body comes slower than MIN_BYTES_PER_S.
        """
        self._expect_place()
        chunks: list[bytes] = []
        try:
            await self._read(request, chunks)
            chunks[:] = [b"".join(chunks)]  # the pieces go: a body is held once
            self._expect_place()
            self.requests += 1
            try:
                yield chunks[0]
            finally:
                self.requests -= 1
        finally:
            self.held_bytes -= sum(map(len, chunks))

    def _expect_place(self) -> None:
        if self.requests >= self.max_requests:
            raise Overloaded("The server has its hands full of requests. Send this one again in a second.")

    async def _read(self, request: Request, chunks: list[bytes]) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal():
            self._refuse(int(announced), more_bytes=int(announced))
        received, clock = 0, asyncio.get_running_loop()
        deadline_s = clock.time() + GRACE_S
        try:
            async with asyncio.timeout_at(deadline_s) as patience:
                async for chunk in request.stream():
                    if not chunk:  # the end
                        continue
                    received += len(chunk)
                    self._refuse(received, more_bytes=len(chunk))
                    chunks.append(chunk)
                    self.held_bytes += len(chunk)
                    patience.reschedule(min(deadline_s + received / MIN_BYTES_PER_S, clock.time() + GRACE_S))
        except TimeoutError:
            raise HTTPException(408, "The body came too slowly. Send it again, over a faster connection.") from None

    def _refuse(self, body_bytes: int, *, more_bytes: int) -> None:
        if body_bytes > self.max_body_bytes:
            raise TooLarge(f"Expected a request of at most {self.max_body_bytes:,} bytes, got more. "
                           "Send a smaller picture.")
        if self.held_bytes + more_bytes > self.max_held_bytes:
            raise Overloaded("The server holds as many bytes as it may. Send this request again in a second.")
