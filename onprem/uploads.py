"""POST /upload-image, the asynchronous way up to its 202, and POST /upload, which answers when all is recorded."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from onprem.answers import json_answer, request_id_of
from onprem.batching import Ready
from onprem.docs import KEPT_PICTURE, ON_PREM, TASK, TRUE_LABEL, answers, fillable
from onprem.door import Door, door_of
from onprem.machine import system_resources
from onprem.predictions import Model
from onprem.schemas import Receipt, Uploaded
from shutterless.bodies import read_submission
from shutterless.classifier import TOP, Answer
from shutterless.errors import Unavailable
from shutterless.settling import Work
from shutterless.uploads import Upload, read_upload

if TYPE_CHECKING:
    from shutterless.results import Record

routes = APIRouter()
Task = Annotated[str | None, Query(json_schema_extra=fillable(**TASK))]
TrueLabel = Annotated[str | None, Query(description="What the picture really shows", json_schema_extra=fillable(**TRUE_LABEL))]


@routes.post("/upload-image", tags=["results"], status_code=202, openapi_extra=KEPT_PICTURE,
             responses=answers(Receipt, 400, 404, 408, 413, 415, 422, success=202, kept=True))
async def upload_image(request: Request, task: Task = None, model: Model = None,
                       true_label: TrueLabel = None) -> Response:
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
    door.pending.admit()
    version = door.storage.objects.put(key, upload.picture, upload.format.content_type)
    try:
        door.storage.results.add_pending(request_id, upload.arrival(request_id, version=version, asked_model=asked_model))
    except Exception:  # raised again, unless the row is there
        if _row_after_all(door, request_id, key) is None:
            raise
    door.tallies.accepted()
    return upload.receipt(request_id, door.storage.bucket)


@routes.post("/upload", tags=[ON_PREM], openapi_extra=KEPT_PICTURE,
             responses=answers(Uploaded, 400, 404, 408, 413, 415, 422, kept=True))
async def upload(request: Request, model: Model = None, true_label: TrueLabel = None) -> Response:
    """Classify one picture, keep both, and answer when they are recorded."""
    door = door_of(request)
    content_type, asked = request.headers.get("content-type", ""), {"model": model, "true_label": true_label}
    async with door.intake.body(request) as body:
        taken = await run_in_threadpool(_read, door, content_type, body, asked)
        said = await keep_answered(door, request_id_of(request), taken)
    return json_answer(said, headers={"location": f"/results?request_id={said['request_id']}"})


def _read(door: Door, content_type: str, body: bytes, asked: dict[str, str | None]) -> Upload:
    return read_upload(read_submission(content_type, body, door.limits.max_bytes), asked)


async def keep_answered(door: Door, request_id: str, upload: Upload) -> dict[str, Any]:
    """Classify, then store the picture and its row: when this returns the body of the answer, both are on the disk.

    Raises BadPicture, of which nothing is kept, NotFound for a model that is not there, Unavailable.
    """
    arrived_at, works = datetime.now(UTC), list[Work]()

    def prepare() -> Ready:
        works.append(Work(arrived_at))
        classifier = door.shelf.classifier(upload.model)
        return Ready(classifier, classifier.prepare(upload.picture, door.limits), TOP)

    answer = await door.batcher.answer(prepare)
    door.tallies.predicted(answer)
    return await run_in_threadpool(_record, door, request_id, upload, answer, works[0])


def _row_after_all(door: Door, request_id: str, key: str) -> Record | None:
    """The row of a write that brought no answer: it may have come through all the same. Where it has not, the picture goes, since
    the client is told to send it again; where nobody can say, it stays."""
    try:
        record = door.storage.results.get(request_id)
    except Unavailable:
        return None
    if record is None:
        door.storage.objects.delete(key)
    return record


def new_request_id() -> str:
    """For one picture of many in a request."""
    return str(uuid.uuid4())


def _record(door: Door, request_id: str, upload: Upload, answer: Answer, work: Work) -> dict[str, Any]:
    objects, key = door.storage.objects, upload.key(request_id)
    version = objects.put(key, upload.picture, upload.format.content_type)
    try:
        outcome = work.done(answer.prediction, answer.model, answer.timings.inference_s)
        number = door.storage.results.add_settled(request_id, upload.arrival(request_id, version=version), outcome)
    except Exception:  # raised again, unless the row is there
        record = _row_after_all(door, request_id, key)
        if record is None:
            raise
        number = record.id
    door.tallies.accepted()
    door.tallies.settled(outcome)
    return {"prediction_id": number, "request_id": request_id, "filename": upload.filename,
            "predicted_label": outcome.predicted_label, "true_label": upload.true_label, "confidence": outcome.confidence,
            "inference_ms": outcome.inference_ms, "latency_ms": outcome.latency_ms, "resources": system_resources()}
