"""Forms with files, taken apart while they come: files go to the disk and not into memory."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, NamedTuple

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool

from onprem import intake
from onprem.parts import Head, PartReader
from shutterless.bodies import filename_of
from shutterless.errors import BadRequest, Overloaded, TooLarge, Unavailable, UnsupportedPicture
from shutterless.forms import read_options
from shutterless.objects import explained

WRITE_BYTES = 1_000_000  # go to the disk at a time
FIELD_BYTES = 8_192  # of a field that is no file; what goes beyond is cut off, and fits nothing
MAX_FIELDS = 1_100  # of a batch: a label for each file
SPARE_BYTES = 50_000_000  # of the disk, for the database: no form may take them
FILE_FIELDS = (b"file", b"files")


class ReceivedFile(NamedTuple):
    """A file of a form: `length` bytes came, all of which `Received.read` has, or none where they were too many."""

    filename: str | None
    offset: int
    length: int
    is_kept: bool


class Received:
    """A form as far as it came: its fields, in order, and its files. `on_file` is asked at the beginning of each file how many
    bytes it may have, and may refuse by raising."""

    def __init__(self, spool: IO[bytes] | None, on_file: Callable[[Received], int], max_fields: int = MAX_FIELDS) -> None:
        """spool: a file on the disk, which has to be there before the first `flush`."""
        self.fields: list[tuple[bytes, bytes]] = []
        self.files: list[ReceivedFile] = []
        self.unwritten = bytearray()
        self.spool, self._on_file, self._max_fields = spool, on_file, max_fields
        self._written = 0
        self._head, self._is_file, self._most = Head(b"", None), False, 0
        self._field, self._length = bytearray(), 0

    def take(self, event: Head | bytes | None) -> None:
        """The next event of a PartReader."""
        if isinstance(event, Head):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._is_file:
            self._length += len(event)
            if self._length <= self._most:
                self.unwritten += event
        else:
            self._field += event[:FIELD_BYTES + 1 - len(self._field)]

    def flush(self) -> None:
        """Write to the disk what came since the last time. Blocks. Raises Unavailable."""
        with explained("written"):
            while self.unwritten and self.spool is not None:
                count = os.pwrite(self.spool.fileno(), self.unwritten, self._written)
                self._written += count
                del self.unwritten[:count]

    def read(self, file: ReceivedFile) -> bytes:
        """The bytes of a file that is kept. Blocks. Raises Unavailable."""
        with explained("read"):
            return os.pread(self.spool.fileno(), file.length, file.offset) if self.spool is not None else b""

    def _begin(self, head: Head) -> None:
        self._head, self._length, self._field = head, 0, bytearray()
        self._is_file = head.filename is not None or head.name in FILE_FIELDS
        if self._is_file:
            self._most = self._on_file(self)
        elif len(self.fields) == self._max_fields:
            raise BadRequest(f"The form: expected at most {self._max_fields:,} fields, got more. Send less at a time.")

    def _end(self) -> None:
        if not self._is_file:
            self.fields.append((self._head.name, bytes(self._field)))
            return
        is_kept, end = self._length <= self._most, self._written + len(self.unwritten)
        offset = end - self._length if is_kept else end  # what came of a file that is too large stays where it is, unread
        name = filename_of(self._head.filename or b"")
        self.files.append(ReceivedFile(name, offset, self._length, is_kept))


class Spools:
    """Receives forms: so many at the same time, so many bytes on the disk. Only the event loop touches its counters.

    A form takes its place when its first file begins, and `on_file` let it in: until then, it is a few fields in memory, and
    clients that send those slowly keep nobody out.

    folder: where the files go, under no name: when the server ends, however it ends, they are gone.
    """

    def __init__(self, folder: Path, *, max_requests: int, max_held_bytes: int) -> None:
        self._folder = folder
        self._max_requests, self._max_held_bytes = max_requests, max_held_bytes
        self.requests = 0
        self.held_bytes = 0

    @asynccontextmanager
    async def received(self, request: Request, *, max_bytes: int, on_file: Callable[[Received], int],
                       max_fields: int = MAX_FIELDS) -> AsyncIterator[Received]:
        """The form, whole, until the block ends.

        Raises UnsupportedPicture for another content type, BadRequest for a broken form, TooLarge for more than `max_bytes`,
        Overloaded when too much is held already, Unavailable when the disk is full, HTTP 408 when it comes too slowly, and what
        `on_file` raises.
        """
        reader = PartReader(_boundary(request))
        announced = request.headers.get("content-length", "")
        announced_bytes = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        _check_size(announced_bytes, max_bytes)
        held = _Held(self, announced_bytes)
        held.expect_place()

        def begin(form: Received) -> int:
            most = on_file(form)
            held.take_place()
            return most

        form = Received(None, begin, max_fields)
        try:
            await self._read(request, reader, form, held, max_bytes)
            yield form
        finally:
            held.give_back()
            if form.spool is not None:
                form.spool.close()

    def _open(self) -> IO[bytes]:
        with explained("written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < self.held_bytes + SPARE_BYTES:
                raise Unavailable("The server's disk has too little room left for this form. Try again when that is mended.")
            return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    async def _read(self, request: Request, reader: PartReader, form: Received, held: _Held, max_bytes: int) -> None:
        clock, stream = asyncio.get_running_loop().time, request.stream()
        received, deadline_s = 0, clock() + intake.GRACE_S
        while (chunk := await _next(stream, min(deadline_s + received / intake.MIN_BYTES_PER_S,
                                                       clock() + intake.GRACE_S))) is not None:
            received += len(chunk)
            _check_size(received, max_bytes)
            held.grow_to(received)
            for event in reader.feed(chunk):
                form.take(event)
            if len(form.unwritten) >= WRITE_BYTES:
                began_s = clock()
                await run_in_threadpool(self._flush, form)
                deadline_s += clock() - began_s  # the disk's time is not the client's
        reader.close()
        await run_in_threadpool(self._flush, form)

    def _flush(self, form: Received) -> None:
        if form.unwritten and form.spool is None:
            form.spool = self._open()
        form.flush()

    @property
    def is_full(self) -> bool:
        return self.requests >= self._max_requests

    def hold(self, more_bytes: int) -> None:
        """Count bytes as held. Raises Overloaded."""
        if self.held_bytes + more_bytes > self._max_held_bytes:
            raise Overloaded("The server holds as many bytes as it may. Send this request again in a second.")
        self.held_bytes += more_bytes


class _Held:
    """What one request holds: once its first file has begun, a place and what is announced; beyond that, what came."""

    def __init__(self, spools: Spools, announced_bytes: int) -> None:
        self._spools, self._announced_bytes = spools, announced_bytes
        self._bytes, self._has_place = 0, False

    def expect_place(self) -> None:
        """Raises Overloaded."""
        if self._spools.is_full:
            raise Overloaded("The server has its hands full of uploads. Send this one again in a second.")

    def take_place(self) -> None:
        """At the first call; later ones do nothing. Raises Overloaded."""
        if not self._has_place:
            self.expect_place()
            self.grow_to(self._announced_bytes)
            self._spools.requests += 1
            self._has_place = True

    def grow_to(self, bytes_: int) -> None:
        """Raises Overloaded."""
        if bytes_ > self._bytes:
            self._spools.hold(bytes_ - self._bytes)
            self._bytes = bytes_

    def give_back(self) -> None:
        self._spools.held_bytes -= self._bytes
        self._spools.requests -= self._has_place


async def _next(stream: AsyncIterator[bytes], deadline_s: float) -> bytes | None:
    try:
        async with asyncio.timeout_at(deadline_s):
            return await anext(stream, None)
    except TimeoutError:
        raise HTTPException(408, "The body came too slowly. Send it again, over a faster connection.") from None


def _boundary(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedPicture("Expected content type multipart/form-data, got another. Send the files as a form.")
    return read_options(content_type.encode("ascii", "replace")).get(b"boundary", b"")


def _check_size(body_bytes: int, max_bytes: int) -> None:
    if body_bytes > max_bytes:
        raise TooLarge(f"Expected a form of at most {max_bytes:,} bytes, got more. Send less at a time.")
