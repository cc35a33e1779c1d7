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
from shutterless.uploads import read_upload

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
    upload = read_upload(read_submission(content_type, body, door.limits.max_bytes), asked)
    classifier = door.shelf.classifier(upload.model)  # a model that is not there is refused now, not later
    asked_model = None if classifier is door.shelf.default else "{name}/{version}".format_map(classifier.model)
    key = upload.key(request_id)
    version = door.storage.objects.put(key, upload.picture, upload.format.content_type)
    try:
        door.storage.results.add_pending(request_id, upload.arrival(request_id, version=version, asked_model=asked_model))
    except Exception:
        door.storage.objects.delete(key)  # the client is told to send it again: nobody would ask for this one
        raise
    door.tallies.accepted()
    return upload.receipt(request_id, door.storage.bucket)
