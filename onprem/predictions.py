"""POST /predict and GET /models: answers at once."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from onprem.answers import json_answer
from onprem.docs import PICTURE, answers
from onprem.door import Door, door_of
from onprem.schemas import Models, Prediction
from shutterless.bodies import Submission, read_submission
from shutterless.pictures import is_small

QUICK_BYTES, QUICK_S = 32_768, 0.01
MODEL = "A bundle as NAME (its newest version) or NAME/VERSION; GET /models lists them."

routes = APIRouter(tags=["predict"])


@routes.post("/predict", openapi_extra=PICTURE, responses=answers(Prediction, 400, 404, 408, 413, 415, 422, 503))
async def predict(request: Request, model: Annotated[str | None, Query(description=MODEL)] = None,
                  top: Annotated[int, Query(ge=1, le=1000, description="How many labels to rank")] = 5) -> Response:
    """Classify one picture, and answer with its label."""
    door = door_of(request)
    content_type = request.headers.get("content-type", "")
    async with door.intake.body(request) as body:
        read = partial(read_submission, content_type, body, door.limits.max_bytes)
        submission = read() if model is None and _is_quick(door, body) else None
        if submission and "model" not in submission.fields and is_small(submission.picture):
            answer = _classify(door, submission, model, top)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(
                door.compute, lambda: _classify(door, submission or read(), model, top))
    timings = answer["timings"]
    spent = ", ".join(f"{name};dur={1000 * timings[f'{name}_s']:.2f}" for name in ("preprocess", "inference"))
    return json_answer(answer, headers={"server-timing": spent})


def _is_quick(door: Door, body: bytes) -> bool:
    """Whether to look at this request on the event loop, and to answer it there if its picture is small: the way to
    another thread and back would cost it a tenth of its time. Only for a fast model, and while nobody else waits."""
    return door.intake.requests == 1 and len(body) <= QUICK_BYTES and door.shelf.default.run_s <= QUICK_S


def _classify(door: Door, submission: Submission, model: str | None, top: int) -> dict[str, Any]:
    return door.shelf.answer(submission, model=model, top=top).to_json_dict()


@routes.get("/models", responses=answers(Models))
def models(request: Request) -> Response:
    """The bundles that ?model= can ask for; without it, the default answers."""
    return json_answer({"models": door_of(request).shelf.listing()})
