"""POST /upload_batch: many pictures, each answered for itself."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from onprem.answers import json_answer, request_id_of
from onprem.docs import BATCH, ON_PREM, answers
from onprem.door import Door, door_of
from onprem.schemas import Batch
from onprem.spools import Received, ReceivedFile
from onprem.uploads import keep_answered, new_request_id
from shutterless.bodies import FORM_BYTES, Submission, text_of
from shutterless.errors import BadRequest, Overloaded, ShutterlessError, TooLarge
from shutterless.problems import problem
from shutterless.uploads import read_upload

HEAD_BYTES = 1_000  # of one file: its part's head, and its label

log = logging.getLogger(__name__)
routes = APIRouter(tags=[ON_PREM])


@dataclass(frozen=True)
class _Failed:
    """A file that has no result, and why."""

    filename: str | None
    error: str


@routes.post("/upload_batch", openapi_extra=BATCH, responses=answers(Batch, 408, 413, 415, 422))
async def upload_batch(request: Request) -> Response:
    """Classify up to 500 pictures and record each one: `files`, and `true_label` once per file, in their order, or not at all.
    A file that is refused stands in `failed`; the others are not kept from their answers."""
    door, request_id = door_of(request), request_id_of(request)
    settings = door.settings
    most = settings.batch_bytes + FORM_BYTES + HEAD_BYTES * settings.batch_files
    async with door.spools.received(request, max_bytes=most, on_file=partial(_room, door)) as form:
        labels = _labels(form)
        settled = await asyncio.gather(*(_settle(door, form, file, label, request_id)
                                         for file, label in zip(form.files, labels, strict=True)))
    failed = [one for one in settled if isinstance(one, _Failed)]
    return json_answer({"results": [one for one in settled if not isinstance(one, _Failed)],
                        "failed": [{"filename": one.filename, "error": one.error} for one in failed]})


def _room(door: Door, form: Received) -> int:
    """Bytes that the next file may have; one that has more fails alone."""
    if len(form.files) >= door.settings.batch_files:
        raise TooLarge(f"Expected at most {door.settings.batch_files:,} files, got more. Send several batches.")
    return door.limits.max_bytes


def _labels(form: Received) -> list[bytes]:
    """One for each file; empty where it is not known. Raises BadRequest where nobody can tell whose they are."""
    labels = [value for name, value in form.fields if name == b"true_label"]
    if not form.files:
        raise BadRequest("The form: expected fields `files` with pictures, got none. With curl: -F files=@a.jpg -F files=@b.jpg")
    if labels and len(labels) != len(form.files):
        raise BadRequest(f"true_label: expected one for each of {len(form.files)} files, in their order, or none, got "
                         f"{len(labels)}. Send an empty one where it is not known.")
    return labels or [b""] * len(form.files)


async def _settle(door: Door, form: Received, file: ReceivedFile, label: bytes, request_id: str) -> dict[str, Any] | _Failed:
    """One file's way; whatever is wrong with it, or with us at this moment, is told beside its name."""
    try:
        async with door.filing:
            if not file.is_kept:
                raise TooLarge(f"Expected at most {door.limits.max_bytes:,} bytes, got {file.length:,}. "
                               "Save the picture smaller or with more compression.")
            picture = await run_in_threadpool(form.read, file)
            submission = Submission(picture=picture, filename=file.filename)
            upload = read_upload(submission, {"true_label": text_of("true_label", label)})
            return await keep_answered(door, new_request_id(), upload)
    except ShutterlessError as error:
        if error.status >= 500 and not isinstance(error, Overloaded):
            log.error("A file of request %s refused: %s", request_id, error)
        return _Failed(file.filename, problem(error, request_id)["detail"])
    except Exception as error:  # logged; the other files go on
        log.exception("A file of request %s failed", request_id)
        return _Failed(file.filename, problem(error, request_id)["detail"])
