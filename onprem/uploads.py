"""POST /upload-image: the asynchronous way up to its 202."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from onprem.answers import json_answer, request_id_of
from onprem.docs import PICTURE, answers
from onprem.door import Door, door_of
from onprem.schemas import Receipt
from shutterless.bodies import read_submission
from shutterless.errors import BadRequest
from shutterless.formats import refusal, sniff

TASKS = ("classify",)
MAX_TEXT = 200  # characters of a label

routes = APIRouter(tags=["results"])


@routes.post("/upload-image", status_code=202, openapi_extra=PICTURE,
             responses=answers(Receipt, 400, 404, 408, 413, 415, 422, 503, success=202))
async def upload_image(request: Request, task: Annotated[str | None, Query()] = None,
                       model: Annotated[str | None, Query()] = None,
                       true_label: Annotated[str | None, Query(description="What the picture really shows")] = None,
                       ) -> Response:
    """Keep one picture, to be classified soon: GET /results?request_id= has the answer."""
    door = door_of(request)
    asked = {"task": task, "model": model, "true_label": true_label}
    async with door.intake.body(request) as body:
        receipt = await run_in_threadpool(_keep, door, request_id_of(request), asked,
                                          request.headers.get("content-type", ""), body)
    door.worker.wake()
    return json_answer(receipt, status=202, headers={"location": f"/results?request_id={receipt['request_id']}"})


def _keep(door: Door, request_id: str, asked: dict[str, str | None], content_type: str, body: bytes) -> dict[str, str]:
    """Store the picture, then its row, each on the disk before the next step: whoever got a 202 gets an answer."""
    from shutterless.results import Arrival

    submission = read_submission(content_type, body, door.limits.max_bytes)
    asked = {name: value or submission.fields.get(name) or None for name, value in asked.items()}  # "" is not filled in
    if len(asked["true_label"] or "") > MAX_TEXT:
        raise BadRequest(f"true_label: expected at most {MAX_TEXT} characters, got more. Send the label's name alone.")
    task = asked["task"] or "classify"
    if task not in TASKS:
        raise BadRequest(f"task: expected {' or '.join(TASKS)}, got {task[:40]!r}.")
    classifier = door.shelf.classifier(asked["model"])  # a model that is not there is refused now, not later
    asked_model = None if classifier is door.shelf.default else "{name}/{version}".format_map(classifier.model)
    found = sniff(submission.picture)
    if found is None:
        raise refusal(submission.picture)
    key = f"uploads/{task}/{request_id}.{found.extension}"
    version = door.storage.objects.put(key, submission.picture, found.content_type)
    arrival = Arrival(task=task, image_name=submission.filename, object_key=key, object_version=version,
                      content_type=found.content_type, true_label=asked["true_label"], asked_model=asked_model)
    try:
        door.storage.results.add_pending(request_id, arrival)
    except Exception:
        door.storage.objects.delete(key)  # the client is told to send it again: nobody would ask for this one
        raise
    return {"request_id": request_id, "bucket": door.storage.bucket, "s3_key": key,
            "content_type": found.content_type, "status": "pending"}
