"""multipart/form-data (RFC 7578) taken apart while it comes: what is in memory is a chunk and the end of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from shutterless.errors import BadRequest
from shutterless.forms import BROKEN, MAX_BOUNDARY, MAX_HEAD, read_head


class Head(NamedTuple):
    """A part begins: the field's name, its file's name where it has one. Its content follows, then None."""

    name: bytes
    filename: bytes | None


class PartReader:
    """Feed it the body's chunks in order, then `close` it. It refuses what `shutterless.forms.read_form` refuses."""

    def __init__(self, boundary: bytes) -> None:
        """Raises BadRequest for no boundary, or one that is too long."""
        if not 0 < len(boundary) <= MAX_BOUNDARY:
            raise BadRequest(BROKEN)
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # so that the first boundary looks like the others
        self._step = self._preamble

    def feed(self, chunk: bytes) -> Iterator[Head | bytes | None]:
        """What this chunk completes: a Head, bytes of its content, None at its end. Raises BadRequest for a broken form."""
        self._buffer += chunk
        while True:
            before = self._step
            yield from self._step()
            if self._step == before:
                return

    def close(self) -> None:
        """The body has ended. Raises BadRequest when the form has not."""
        if self._step != self._epilogue:
            raise BadRequest(BROKEN)

    def _preamble(self) -> Iterator[Head | bytes | None]:
        found = self._buffer.find(self._delimiter)
        if self._buffer[:max(found, 0)].replace(b"\r\n", b"") or (found < 0 and len(self._buffer) > MAX_HEAD):
            raise BadRequest(BROKEN)
        if found >= 0:
            self._drop(found + len(self._delimiter))
            self._step = self._after_boundary
        yield from ()

    def _after_boundary(self) -> Iterator[Head | bytes | None]:
        if self._buffer[:2] == b"--":
            self._step = self._epilogue
        elif (end := self._end_of(b"\r\n")) is not None:
            if self._buffer[:end].strip(b" \t"):
                raise BadRequest(BROKEN)
            self._drop(end)
            self._step = self._head
        yield from ()

    def _head(self) -> Iterator[Head | bytes | None]:
        if (end := self._end_of(b"\r\n\r\n")) is not None:
            head = Head(*read_head(bytes(self._buffer[2:end])))
            self._drop(end + 4)
            self._step = self._content
            yield head

    def _content(self) -> Iterator[Head | bytes | None]:
        found = self._buffer.find(self._delimiter)
        sure = found if found >= 0 else max(len(self._buffer) - len(self._delimiter) + 1, 0)
        if sure:
            yield bytes(self._buffer[:sure])
            self._drop(sure)
        if found >= 0:
            self._drop(len(self._delimiter))
            self._step = self._after_boundary
            yield None

    def _epilogue(self) -> Iterator[Head | bytes | None]:
        self._buffer.clear()
        yield from ()

    def _end_of(self, what: bytes) -> int | None:
        """Where `what` is; None while it may still come."""
        found = self._buffer.find(what, 0, MAX_HEAD + len(what))
        if found < 0 and len(self._buffer) > MAX_HEAD:
            raise BadRequest(BROKEN)
        return found if found >= 0 else None

    def _drop(self, length: int) -> None:
        del self._buffer[:length]
