"""Request body -> picture: raw bytes, multipart/form-data or JSON with base64. Shared by every door."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shutterless.errors import BadRequest, TooLarge, UnsupportedPicture
from shutterless.formats import sniff
from shutterless.forms import read_form, read_options

FORM_BYTES = 65_536  # what a form may hold beside its picture: boundaries, headers, other fields
MAX_FILENAME = 255
IMAGE_FIELDS = ("image_base64", "image_b64")
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITESPACE = b" \t\r\n"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a client sent: the picture's bytes, the name of its file, and the other fields."""

    picture: bytes
    filename: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


def read_submission(content_type: str | None, body: bytes, max_bytes: int) -> Submission:
    """Take the picture out of a request's body; nobody has looked yet whether it is one.

    Raises TooLarge when the picture has more than `max_bytes`, BadRequest when the form or the JSON is broken or holds
    no picture, UnsupportedPicture when the content type is another.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if not kind and body[:1] == b"{":
        kind = "application/json"
    if kind == "multipart/form-data":
        _check_length(len(body), max_bytes + FORM_BYTES, max_bytes)
        submission = _from_form(body, _boundary(content_type or ""))
    elif kind == "application/json":
        _check_length(len(body), max_bytes * 3 // 2 + FORM_BYTES, max_bytes)  # base64 takes 4/3, with lines a bit more
        submission = _from_json(body)
    elif kind in ("", "application/octet-stream") or kind.startswith("image/") or sniff(body):
        submission = Submission(picture=body)  # the bytes decide: curl --data-binary says form-urlencoded of a picture
    else:
        raise UnsupportedPicture(
            f"Expected content type image/*, multipart/form-data with a field `file`, or application/json with a field "
            f"`image_base64`, got {_shown(kind)!r}. Send the picture as one of these.")
    _check_length(len(submission.picture), max_bytes, max_bytes)
    return submission


def _boundary(content_type: str) -> bytes:
    return read_options(content_type.encode("ascii", "replace")).get(b"boundary", b"")


def _check_length(length: int, most: int, max_bytes: int) -> None:
    if length > most:
        raise TooLarge(f"Expected a picture of at most {max_bytes:,} bytes, got more. "
                       "Save it smaller or with more compression.")


def _from_form(body: bytes, boundary: bytes) -> Submission:
    """The part named `file`, else the first that has a filename, is the picture; parts without one are fields."""
    named = [(text_of("a field's name", part.name), part) for part in read_form(body, boundary)]
    files = [part for name, part in named if name == "file"] + [part for _, part in named if part.filename is not None]
    if not files:
        raise BadRequest("The form: expected a field `file` with the picture, got none. "
                         "With curl: -F file=@picture.jpg")
    picture = files[0]
    fields = {name: text_of(name, part.content) for name, part in named if part is not picture and part.filename is None}
    return Submission(picture=picture.content, fields=fields,
                      filename=None if picture.filename is None else filename_of(picture.filename))


def _from_json(body: bytes) -> Submission:
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body: expected JSON, got text that is not. Send "
                         '{"image_base64": "..."} or another content type.') from error
    if not isinstance(document, dict):
        raise BadRequest('The body: expected a JSON object, got another value. Send {"image_base64": "..."}.')
    names = [name for name in IMAGE_FIELDS if name in document]
    if len(names) != 1:
        raise BadRequest(f"The body: expected a field `image_base64`, got {' and '.join(names) or 'none'}. "
                         'Send {"image_base64": "..."}.')
    name = names[0]
    fields = dict(_fields((key, value) for key, value in document.items() if key not in IMAGE_FIELDS))
    filename = fields.pop("filename", None)
    return Submission(picture=from_base64(name, document[name]), fields=fields,
                      filename=None if filename is None else filename_of(filename.encode()))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _fields(entries: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, str]]:
    for name, value in entries:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise BadRequest(f"{_shown(name)}: expected a string or a number, got another value. Correct it.")
        yield text_of("a field's name", name), text_of(name, str(value))


def from_base64(name: str, value: Any) -> bytes:
    """Standard or URL-safe alphabet, with or without padding and line breaks, plain or as a data: URL."""
    refusal = BadRequest(f"{name}: expected a picture in base64, got something else. Encode the file's bytes.")
    if not isinstance(value, str):
        raise refusal
    if value.startswith("data:"):
        head, _, value = value.partition(",")
        if not head.endswith(";base64"):
            raise refusal
    if len(value) % 4 == 0:  # the usual spelling, which needs no copies
        try:
            return binascii.a2b_base64(value, strict_mode=True)
        except ValueError:
            pass
    try:
        encoded = value.encode("ascii").translate(URL_SAFE, WHITESPACE)
        if not encoded.endswith(b"="):
            encoded += b"=" * (-len(encoded) % 4)
        picture = base64.b64decode(encoded, validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise refusal from error
    if len(encoded) % 4:  # Python lets padding pass where none is due
        raise refusal
    return picture


def text_of(name: str, value: bytes | str) -> str:
    """Text that every database takes: valid UTF-8 without NUL."""
    try:
        text = value.decode() if isinstance(value, bytes) else value.encode().decode()
    except UnicodeError as error:
        raise BadRequest(f"{_shown(name)}: expected text in UTF-8, got other bytes. Correct it.") from error
    if "\0" in text:
        raise BadRequest(f"{_shown(name)}: expected text, got a NUL character in it. Correct it.")
    return text


def _shown(name: str) -> str:
    return name[:80].encode("ascii", "replace").decode()


def filename_of(value: bytes) -> str | None:
    """The last part of a path in either style, to be shown and never to be opened; None when nothing is left."""
    text = value.decode(errors="replace")
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    return text.replace("\\", "/").rpartition("/")[2][-MAX_FILENAME:] or None
