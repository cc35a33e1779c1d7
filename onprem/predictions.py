"""POST /predict and GET /models: answers at once."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from onprem.answers import json_answer
from onprem.docs import PICTURE, answers
from onprem.door import Door, door_of
from onprem.schemas import Models, Prediction
from shutterless.bodies import read_submission

MODEL = "A bundle as NAME (its newest version) or NAME/VERSION; GET /models lists them."

routes = APIRouter(tags=["predict"])


@routes.post("/predict", openapi_extra=PICTURE, responses=answers(Prediction, 400, 404, 408, 413, 415, 422, 503))
async def predict(request: Request, model: Annotated[str | None, Query(description=MODEL)] = None,
                  top: Annotated[int, Query(ge=1, le=1000, description="How many labels to rank")] = 5) -> Response:
    """Classify one picture, and answer with its label."""
    door = door_of(request)
    content_type = request.headers.get("content-type", "")
    async with door.intake.body(request) as body:
        answer = await asyncio.get_running_loop().run_in_executor(
            door.compute, _classify, door, content_type, body, model, top)
    timings = answer["timings"]
    spent = ", ".join(f"{name};dur={1000 * timings[f'{name}_s']:.2f}" for name in ("preprocess", "inference"))
    return json_answer(answer, headers={"server-timing": spent})


def _classify(door: Door, content_type: str, body: bytes, model: str | None, top: int) -> dict[str, Any]:
    submission = read_submission(content_type, body, door.limits.max_bytes)
    classifier = door.shelf.classifier(model or submission.fields.get("model") or None)
    return classifier.predict(submission.picture, top=top, limits=door.limits).to_json_dict()


@routes.get("/models", responses=answers(Models))
def models(request: Request) -> Response:
    """The bundles that ?model= can ask for; without it, the default answers."""
    return json_answer({"models": door_of(request).shelf.listing()})
