"""multipart/form-data (RFC 7578) -> its parts. The body is in memory whole: it is searched, not stepped through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from shutterless.errors import BadRequest

MAX_PARTS = 100
MAX_BOUNDARY = 256  # bytes; RFC 2046 allows 70
MAX_HEAD = 8_192  # bytes of a part's headers, and of the white space that may follow a boundary

_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n]*)")
_OPTION = re.compile(rb';[ \t]*(?:([^\s;="]+)[ \t]*=[ \t]*)?("(?:[^"\\]|\\.)*"|[^;]*)', re.DOTALL)
_ESCAPED = re.compile(rb'\\(["\\])')
BROKEN = ("The form: expected multipart/form-data with its boundary in the content type, got one that is cut short or "
          "broken. Let the HTTP library write the content type, and send the body whole.")


class Part(NamedTuple):
    """One part: the field's name, its file's name where it has one, what it holds."""

    name: bytes
    filename: bytes | None
    content: bytes


def read_form(body: bytes, boundary: bytes) -> list[Part]:
    """All parts, in order; what follows the last boundary is dropped. Takes a time in proportion to the body.

    Raises BadRequest for a form that is cut short, broken, of more than MAX_PARTS parts, or without a boundary.
    """
    delimiter = b"\r\n--" + boundary
    start = body.find(delimiter[2:])
    if not 0 < len(boundary) <= MAX_BOUNDARY or start < 0 or body[:start].replace(b"\r\n", b""):
        raise BadRequest(BROKEN)
    parts: list[Part] = []
    at = start + len(delimiter) - 2
    while not body.startswith(b"--", at):
        if len(parts) == MAX_PARTS:
            raise BadRequest(f"The form: expected at most {MAX_PARTS} parts, got more. Send one picture at a time.")
        head = _find(body, b"\r\n", at, at + MAX_HEAD)
        if body[at:head].strip(b" \t"):
            raise BadRequest(BROKEN)
        content = _find(body, b"\r\n\r\n", head, head + MAX_HEAD) + 4
        at = _find(body, delimiter, content)
        parts.append(Part(*read_head(body[head + 2:content - 4]), body[content:at]))
        at += len(delimiter)
    return parts


@lru_cache(maxsize=64)  # a client's forms are alike, and to read this is half of reading a small form
def read_head(head: bytes) -> tuple[bytes, bytes | None]:
    """The name of a part and its filename, by its header lines. Raises BadRequest."""
    options = read_options(_disposition(head))
    return options.get(b"name", b""), options.get(b"filename")


@lru_cache(maxsize=64)  # of a form's content type, as well
def read_options(header: bytes) -> Mapping[bytes, bytes]:
    """What a header says after its first value, `; name=value` or `; name="value"`; names in lower case. RFC 7578
    forbids `name*=` in forms: it is left out."""
    return {name.lower(): _unquoted(value) for name, value in _OPTION.findall(header) if name and b"*" not in name}


def _unquoted(value: bytes) -> bytes:
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        return _ESCAPED.sub(rb"\1", value[1:-1])
    return value.rstrip(b" \t")


def _disposition(head: bytes) -> bytes:
    """The value of Content-Disposition, empty without one."""
    disposition = b""
    for line in head.split(b"\r\n") if head else ():
        header = _HEADER.fullmatch(line)
        if header is None:
            raise BadRequest(BROKEN)
        if header[1].lower() == b"content-disposition":
            disposition = header[2]
    return disposition


def _find(body: bytes, what: bytes, start: int, end: int | None = None) -> int:
    found = body.find(what, start, end)
    if found < 0:
        raise BadRequest(BROKEN)
    return found
