"""POST /predict and GET /models: answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from onprem.answers import json_answer
from onprem.batching import Ready
from onprem.docs import EMPTY, PICTURE, answers, fillable
from onprem.door import Door, door_of
from onprem.heads import CONNECTION
from onprem.schemas import Models, Prediction
from shutterless.bodies import Submission, read_submission
from shutterless.classifier import TOP, Answer
from shutterless.errors import TooLarge

QUICK_BYTES, QUICK_S = 32_768, 0.01
MODEL = "A bundle as NAME (its newest version) or NAME/VERSION; GET /models lists them."

routes = APIRouter(tags=["predict"])
Model = Annotated[str | None, Query(description=MODEL, json_schema_extra=fillable(type="string"))]
Top = Annotated[int, Field(ge=1, le=1000), BeforeValidator(lambda sent: sent or TOP),  # an empty one counts as not filled in
                Query(description="How many labels to rank", json_schema_extra={EMPTY: True})]


@routes.post("/predict", openapi_extra=PICTURE, responses=answers(Prediction, 400, 404, 408, 413, 415, 422, 503))
async def predict(request: Request, model: Model = None, top: Top = TOP) -> Response:
    """Classify one picture, and answer with its label."""
    door, content_type = door_of(request), request.headers.get("content-type", "")
    async with door.intake.body(request) as body:
        asked = ask(door, content_type, body, getattr(request.state, CONNECTION, None), model, top)
        answer = asked if isinstance(asked, Answer) else await asked
    content, spent = told(door, answer)
    return json_answer(content, headers={"server-timing": spent})


def ask(door: Door, content_type: str, body: bytes, connection: object, model: str | None = None,
        top: int = TOP) -> Answer | asyncio.Future[Answer]:
    """The answer to one picture: at once where it is quick and that connection's client alone. Only the event loop may ask."""
    read = partial(read_submission, content_type, body, door.limits.max_bytes)
    is_alone = door.solitude.asked(connection)
    if model is None and is_alone and _is_quick(door, body):
        answer = _answer_at_once(door, read(), top)
        if answer is not None:
            return answer
    soon = partial(_prepare_soon, door, read, top) if model is None and len(body) <= QUICK_BYTES else None
    return door.batcher.answer(partial(_prepare, door, read, model, top), soon)


def told(door: Door, answer: Answer) -> tuple[dict[str, Any], str]:
    """The body of an answer, which is counted, and its Server-Timing."""
    door.tallies.predicted(answer)
    timings = answer.timings
    spent = f"preprocess;dur={1000 * timings.preprocess_s:.2f}, inference;dur={1000 * timings.inference_s:.2f}"
    return answer.to_json_dict(), spent


def _is_quick(door: Door, body: bytes) -> bool:
    """Whether to try this request on the event loop: the way to another thread and back would cost it a tenth of its
    time. Only for a fast model."""
    return door.intake.requests == 1 and len(body) <= QUICK_BYTES and door.shelf.default.run_s <= QUICK_S


def _answer_at_once(door: Door, submission: Submission, top: int) -> Answer | None:
    """None when it would take long: a picture of many pixels, or another model, which may have to be opened."""
    if "model" in submission.fields:
        return None
    try:
        answer = door.shelf.answer(submission, model=None, top=top, limits=door.quick_limits)
    except TooLarge:
        return None
    door.tallies.ran(1, answer.timings.inference_s)
    return answer


def _prepare_soon(door: Door, read: Callable[[], Submission], top: int) -> Ready | None:
    """None where it would take long, as in `_answer_at_once`."""
    submission, classifier = read(), door.shelf.default
    if "model" in submission.fields:
        return None
    try:
        return Ready(classifier, classifier.prepare(submission.picture, door.quick_limits), top)
    except TooLarge:
        return None


def _prepare(door: Door, read: Callable[[], Submission], model: str | None, top: int) -> Ready:
    submission = read()
    classifier = door.shelf.asked(submission, model)
    return Ready(classifier, classifier.prepare(submission.picture, door.limits), top)


@routes.get("/models", responses=answers(Models))
def models(request: Request) -> Response:
    """The bundles that ?model= can ask for; without it, the default answers."""
    return json_answer({"models": door_of(request).shelf.listing()})
