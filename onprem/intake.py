"""Request bodies within bounds: bytes of one, bytes and number of all that are held at the same time, and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from onprem.heads import is_whole
from onprem.rooms import Body, Room
from shutterless.bodies import FORM_BYTES
from shutterless.errors import TooLarge

HELD_BYTES = 128_000_000


class Intake(Room):
    """Hands out whole bodies.

    max_bytes: of a picture; its body may be half as long again (base64 in lines).
    max_requests: bodies that are whole, waiting or worked on, at the same time. One that is still coming takes no place, only its
    bytes: clients that send slowly keep nobody out.
    """

    def __init__(self, *, max_bytes: int, max_requests: int, held_bytes: int = HELD_BYTES) -> None:
        self.max_body_bytes = max_bytes * 3 // 2 + FORM_BYTES
        super().__init__(max_requests=max_requests, max_held_bytes=max(held_bytes, self.max_body_bytes))

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted as held until the block ends: answer inside it.

        Raises TooLarge as soon as a byte too many is announced or arrives, Overloaded when too much is held already, or when it
        gave way to others, and HTTP 408 when the body comes too slowly.
        """
        self.expect_place()
        body, chunks = Body(), list[bytes]()
        try:
            if is_whole(request.scope):
                self._keep(body, chunks, await request.body())
            else:
                await self._read(request, body, chunks)
                chunks[:] = [b"".join(chunks)]  # the pieces go: a body is held once
            self.take_place(body)
            yield chunks[0]
        finally:
            self.release(body)

    async def _read(self, request: Request, body: Body, chunks: list[bytes]) -> None:
        announced = request.headers.get("content-length", "")
        if announced.isdecimal():
            self._check_size(int(announced))
            self.expect_bytes(int(announced))
        self.coming.add(body)
        try:
            async with asyncio.timeout_at(body.ends_s) as body.patience:
                async for chunk in request.stream():
                    if not chunk:  # the end
                        continue
                    self._keep(body, chunks, chunk)
                    body.came(len(chunk))
        except TimeoutError:
            raise body.too_slow() from None
        self.arrived(body)

    def _keep(self, body: Body, chunks: list[bytes], chunk: bytes) -> None:
        self._check_size(body.held_bytes + len(chunk))
        self.hold(body, len(chunk))
        chunks.append(chunk)

    def _check_size(self, body_bytes: int) -> None:
        if body_bytes > self.max_body_bytes:
            raise TooLarge(f"Expected a request of at most {self.max_body_bytes:,} bytes, got more. "
                           "Send a smaller picture.")
