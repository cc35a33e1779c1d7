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

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from onprem.parts import Head, PartReader
from onprem.rooms import Body, Room
from shutterless.bodies import filename_of
from shutterless.errors import BadRequest, TooLarge, Unavailable, UnsupportedPicture
from shutterless.forms import read_options
from shutterless.objects import explained

WRITE_BYTES = 1_000_000  # go to the disk at a time
FIELD_BYTES = 8_192  # of a field that is no file; what goes beyond is cut off, and fits nothing
MAX_FIELDS = 1_100  # of a batch: a label for each file
LEAD_BYTES = 1_000  # for each of these fields, of what may come before the first file
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


class Spools(Room):
    """Receives forms: so many at the same time, so many bytes on the disk.

    A form takes its place, and holds the bytes that it announced, when its first file begins, and `on_file` let it in: until
    then, it is a few fields in memory, and whoever sends those keeps nobody out.

    folder: where the files go, under no name: when the server ends, however it ends, they are gone.
    """

    def __init__(self, folder: Path, *, max_requests: int, max_held_bytes: int) -> None:
        super().__init__(max_requests=max_requests, max_held_bytes=max_held_bytes)
        self._folder = folder

    @asynccontextmanager
    async def received(self, request: Request, *, max_bytes: int, on_file: Callable[[Received], int],
                       max_fields: int = MAX_FIELDS) -> AsyncIterator[Received]:
        """The form, whole, until the block ends.

        Raises UnsupportedPicture for another content type, BadRequest for a broken form, TooLarge for more than `max_bytes`,
        Overloaded when too much is held already, or when it gave way to others, Unavailable when the disk is full, HTTP 408 when
        it comes too slowly, and what `on_file` raises.
        """
        reader = PartReader(_boundary(request))
        announced = request.headers.get("content-length", "")
        announced_bytes = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        _check_size(announced_bytes, max_bytes)
        body = Body()

        def begin(form: Received) -> int:
            most = on_file(form)
            if not body.has_place:
                self.take_place(body)
                self.hold(body, announced_bytes)
                self.coming.add(body)
            return most

        form = Received(None, begin, max_fields)
        try:
            await self._read(request, reader, form, body, max_bytes=max_bytes, lead_bytes=LEAD_BYTES * max_fields)
            yield form
        finally:
            self.release(body)
            if form.spool is not None:
                form.spool.close()

    def _open(self) -> IO[bytes]:
        with explained("written"):
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < self.held_bytes + SPARE_BYTES:
                raise Unavailable("The server's disk has too little room left for this form. Try again when that is mended.")
            return tempfile.TemporaryFile(dir=self._folder, buffering=0)

    async def _read(self, request: Request, reader: PartReader, form: Received, body: Body, *, max_bytes: int,
                    lead_bytes: int) -> None:
        stream, received = request.stream(), 0
        while (chunk := await _next(stream, body)) is not None:
            received += len(chunk)
            _check_size(received, max_bytes)
            for event in reader.feed(chunk):
                form.take(event)
            if body.has_place:
                self.hold(body, max(received - body.held_bytes, 0))
            elif received > lead_bytes:
                raise BadRequest(f"The form: expected a file after at most {lead_bytes:,} bytes of other fields, got more. Send "
                                 "only those that belong to it.")
            if len(form.unwritten) >= WRITE_BYTES:
                await run_in_threadpool(self._flush, form)
                body.resume()  # the disk's time is not the client's
        reader.close()
        await run_in_threadpool(self._flush, form)
        self.arrived(body)

    def _flush(self, form: Received) -> None:
        if form.unwritten and form.spool is None:
            form.spool = self._open()
        form.flush()


async def _next(stream: AsyncIterator[bytes], body: Body) -> bytes | None:
    """What comes next; None at the end. Raises HTTP 408, and Overloaded when the body gave way."""
    try:
        async with asyncio.timeout_at(body.ends_s) as body.patience:
            chunk = await anext(stream, None)
    except TimeoutError:
        raise body.too_slow() from None
    finally:
        body.patience = None
    body.came(len(chunk or b""))
    return chunk


def _boundary(request: Request) -> bytes:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise UnsupportedPicture("Expected content type multipart/form-data, got another. Send the files as a form.")
    return read_options(content_type.encode("ascii", "replace")).get(b"boundary", b"")


def _check_size(body_bytes: int, max_bytes: int) -> None:
    if body_bytes > max_bytes:
        raise TooLarge(f"Expected a form of at most {max_bytes:,} bytes, got more. Send less at a time.")
