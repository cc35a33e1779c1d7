"""upload: pictures come in. POST /upload-image keeps one; POST /uploads gives a form with which S3 takes one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

from lambdas.answers import Answer
from lambdas.door import Door, serve
from lambdas.events import Request
from lambdas.intake import read_picture
from lambdas.storage import Storage, is_container, open_here
from shutterless.settings import Settings
from shutterless.uploads import FORM_S, GRACE_S, NOT_STORED, form_answer, read_announcement, read_upload


def upload_image(request: Request, settings: Settings, storage: Storage) -> Answer:
    """Write the row, store the picture, answer 202: infer finds the row, and whoever got a 202 gets an answer.

    If this ends in between, the row is found late by whoever reads it.
    """
    upload = read_upload(read_picture(request, settings.max_bytes), request.query)
    request_id = request.request_id
    receipt, objects = upload.receipt(request_id, storage.bucket), storage.objects
    storage.results.add_pending(request_id, upload.arrival(request_id, asked_model=upload.model), expected_s=FORM_S)
    try:
        objects.put(upload.key(request_id), upload.picture, upload.format.content_type)
    except Exception:  # raised again: no row may wait for a picture that nobody will store
        storage.results.expire(request_id, NOT_STORED)
        raise
    return Answer(status=202, body=receipt, headers={"location": f"/results?request_id={request_id}"})


def give_form(request: Request, settings: Settings, storage: Storage) -> Answer:
    """A row that waits for the picture, and a form that puts exactly that picture into the bucket."""
    announced = read_announcement(request.body, settings.max_bytes)
    request_id = request.request_id
    expires_at = datetime.now(UTC) + timedelta(seconds=FORM_S)
    form = storage.objects.form(announced.key(request_id), announced.format.content_type, announced.size_bytes, FORM_S)
    storage.results.add_pending(request_id, announced.arrival(request_id), expected_s=FORM_S + GRACE_S)
    return Answer(status=201, headers={"location": f"/results?request_id={request_id}", "cache-control": "no-store"},
                  body=form_answer(announced, request_id, form, expires_at))


def open_door(settings: Settings, storage: Storage) -> Door:
    """The routes of this function."""
    return Door(function="upload", bare_path="/upload-image", settings=settings, routes={
        ("POST", "/upload-image"): partial(upload_image, settings=settings, storage=storage),
        ("POST", "/uploads"): partial(give_form, settings=settings, storage=storage)})


@cache
def _door() -> Door:
    return open_here(open_door)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(event, context, _door())


if is_container():
    _door()
