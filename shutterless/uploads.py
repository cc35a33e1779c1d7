"""A picture on its way in: what every door checks before its 202, and the name under which the picture is kept."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from shutterless.bodies import Submission, text_of
from shutterless.errors import BadRequest, TooLarge, UnsupportedPicture
from shutterless.formats import ACCEPTED, FORMATS, PictureFormat, refusal, sniff

if TYPE_CHECKING:
    from shutterless.results import Arrival, ErrorNote

TASKS = ("classify",)
MAX_TEXT = 200  # characters of a label
FORM_S = 900  # how long a form may be used
GRACE_S = 300  # after that, an upload that began in time may still be arriving

NEVER_ARRIVED: ErrorNote = {
    "title": "never_arrived",
    "detail": "The picture did not come in time. Send it again."}
NOT_STORED: ErrorNote = {
    "title": "Not stored",
    "detail": "The picture could not be stored, as the answer to the upload said. Send it again."}
_KEY = re.compile(r"uploads/([a-z]+)/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.[a-z]+")
_TASK = re.compile(r"uploads/([a-z]+)/")


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture that a client wants kept. `format` is what its bytes say, `model` what was asked for, not yet looked up."""

    picture: bytes
    filename: str | None
    format: PictureFormat
    task: str
    model: str | None
    true_label: str | None

    def key(self, request_id: str) -> str:
        return key_of(self.task, request_id, self.format)

    def arrival(self, request_id: str, *, version: str | None = None, asked_model: str | None = None) -> Arrival:
        """What its row says. version: of the stored object; asked_model: "name/version", None for the default."""
        from shutterless.results import Arrival

        return Arrival(task=self.task, image_name=self.filename, object_key=self.key(request_id), object_version=version,
                       content_type=self.format.content_type, true_label=self.true_label, asked_model=asked_model)

    def receipt(self, request_id: str, bucket: str) -> dict[str, str]:
        """The body of the 202."""
        return {"request_id": request_id, "bucket": bucket, "s3_key": self.key(request_id),
                "content_type": self.format.content_type, "status": "pending"}


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """A picture that will come by a form: its format and its size as the client says them, which the form then holds."""

    format: PictureFormat
    size_bytes: int
    task: str
    true_label: str | None

    def key(self, request_id: str) -> str:
        return key_of(self.task, request_id, self.format)

    def arrival(self, request_id: str) -> Arrival:
        """What its row says until the picture comes."""
        from shutterless.results import Arrival

        return Arrival(task=self.task, object_key=self.key(request_id), content_type=self.format.content_type,
                       true_label=self.true_label)


def form_answer(announced: Announcement, request_id: str, form: Mapping[str, Any], expires_at: datetime) -> dict[str, Any]:
    """The body of the 201: `form` is {url, fields}, with which the picture can be sent until `expires_at`."""
    return {"request_id": request_id, "url": form["url"], "fields": form["fields"],
            "expires_at": expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"), "max_bytes": announced.size_bytes}


def read_upload(submission: Submission, asked: Mapping[str, str | None]) -> Upload:
    """POST /upload-image: what its body holds, and the fields `task`, `model` and `true_label` of its query, which go before
    those of the body, which have to be right all the same; an empty one counts as not filled in.

    Raises BadRequest, or BadPicture for what does not even begin like a picture.
    """
    for fields in (asked, submission.fields):
        _task(fields.get("task") or None)
        _label(fields.get("true_label"))
    task, model, true_label = (asked.get(name) or submission.fields.get(name) or None
                               for name in ("task", "model", "true_label"))
    found = sniff(submission.picture)
    if found is None:
        raise refusal(submission.picture)
    return Upload(picture=submission.picture, filename=submission.filename, format=found, task=_task(task), model=model,
                  true_label=true_label)


def read_announcement(body: bytes, max_bytes: int) -> Announcement:
    """POST /uploads: JSON {content_type, size_bytes, task?, true_label?}.

    Raises BadRequest, UnsupportedPicture for a content type that is not accepted, TooLarge past `max_bytes`.
    """
    document = _json_object(body)
    kind, size_bytes = document.get("content_type"), document.get("size_bytes")
    found = next((format for format in FORMATS if format.content_type == kind), None)
    if not isinstance(kind, str):
        raise BadRequest("content_type: expected a picture's content type, like image/jpeg, got none. Add it.")
    if found is None:
        raise UnsupportedPicture(f"content_type: expected that of {ACCEPTED}, got {kind[:80]!r}. Convert the picture.")
    if isinstance(size_bytes, float) and size_bytes.is_integer():
        size_bytes = int(size_bytes)  # JSON has one kind of number: 3.0 is an integer, too
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 1:
        raise BadRequest(f"size_bytes: expected the file's size, an integer above 0, got {str(size_bytes)[:40]!r}.")
    if size_bytes > max_bytes:
        raise TooLarge(f"Expected a picture of at most {max_bytes:,} bytes, got {size_bytes:,}. "
                       "Save it smaller or with more compression.")
    return Announcement(format=found, size_bytes=size_bytes, task=_task(_text(document, "task")),
                        true_label=_label(_text(document, "true_label")))


def key_of(task: str, request_id: str, format: PictureFormat) -> str:
    """Where a picture is kept."""
    return f"uploads/{task}/{request_id}.{format.extension}"


def request_id_of(bucket: str, key: str, version: str | None) -> tuple[str, bool]:
    """The request_id of a stored object, and whether a door gave it: else others put the object there, and each of its
    versions is an upload of its own."""
    if ours := _KEY.fullmatch(key):
        return ours[2], True
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "\n".join((bucket, key, version or "")))), False


def task_of(key: str) -> str:
    """The task that a key names; the first one for a key of another shape."""
    named = _TASK.match(key)
    return named[1] if named else TASKS[0]


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(_ANNOUNCEMENT) from error
    if not isinstance(document, dict):
        raise BadRequest(_ANNOUNCEMENT)
    return document


_ANNOUNCEMENT = 'The body: expected JSON like {"content_type": "image/jpeg", "size_bytes": 12345}, got something else.'


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name}: expected a string, got another value. Correct it.")
    return value or None


def _task(task: str | None) -> str:
    if task is not None and task not in TASKS:
        raise BadRequest(f"task: expected {' or '.join(TASKS)}, got {task[:40]!r}. Correct it, or leave it out.")
    return task or TASKS[0]


def _label(true_label: str | None) -> str | None:
    if len(true_label or "") > MAX_TEXT:
        raise BadRequest(f"true_label: expected at most {MAX_TEXT} characters, got more. Send the label's name alone.")
    return None if true_label is None else text_of("true_label", true_label)
