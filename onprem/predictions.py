"""POST /predict and GET /models: answers at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.routing import APIRoute

from onprem.answers import json_answer
from onprem.docs import PICTURE, answers
from onprem.door import Door, door_of
from onprem.schemas import Models, Prediction
from shutterless.bodies import Submission, read_submission
from shutterless.errors import TooLarge
from shutterless.pictures import Limits

QUICK_BYTES, QUICK_S = 32_768, 0.01
MODEL = "A bundle as NAME (its newest version) or NAME/VERSION; GET /models lists them."


routes = APIRouter(tags=["predict"])


class Bare(APIRoute):
    """A route whose query may be left out: its defaults then hold, and FastAPI is not asked to find that out, which would
    take a tenth of the time that the server adds to a prediction."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        by_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            answer: Response = await (by_fastapi(request) if request.scope["query_string"] else self.endpoint(request))
            return answer
        return handle


async def predict(request: Request, model: Annotated[str | None, Query(description=MODEL)] = None,
                  top: Annotated[int, Query(ge=1, le=1000, description="How many labels to rank")] = 5) -> Response:
    """Classify one picture, and answer with its label."""
    door = door_of(request)
    content_type = request.headers.get("content-type", "")
    async with door.intake.body(request) as body:
        read = partial(read_submission, content_type, body, door.limits.max_bytes)
        answer = _answer_at_once(door, read(), top) if model is None and _is_quick(door, body) else None
        if answer is None:
            answer = await asyncio.get_running_loop().run_in_executor(
                door.compute, lambda: _classify(door, read(), model, top, door.limits))
    timings = answer["timings"]
    spent = ", ".join(f"{name};dur={1000 * timings[f'{name}_s']:.2f}" for name in ("preprocess", "inference"))
    return json_answer(answer, headers={"server-timing": spent})


routes.add_api_route("/predict", predict, methods=["POST"], route_class_override=Bare, openapi_extra=PICTURE,
                     responses=answers(Prediction, 400, 404, 408, 413, 415, 422, 503))


def _is_quick(door: Door, body: bytes) -> bool:
    """Whether to try this request on the event loop: the way to another thread and back would cost it a tenth of its
    time. Only for a fast model, and while nobody else waits."""
    return door.intake.requests == 1 and len(body) <= QUICK_BYTES and door.shelf.default.run_s <= QUICK_S


def _answer_at_once(door: Door, submission: Submission, top: int) -> dict[str, Any] | None:
    """None when it would take long: a picture of many pixels, or another model, which may have to be opened."""
    if "model" in submission.fields:
        return None
    try:
        return _classify(door, submission, None, top, door.quick_limits)
    except TooLarge:
        return None


def _classify(door: Door, submission: Submission, model: str | None, top: int, limits: Limits) -> dict[str, Any]:
    answer = door.shelf.answer(submission, model=model, top=top, limits=limits)
    door.tallies.ran(1, answer.timings.inference_s)
    door.tallies.predicted(answer)
    return answer.to_json_dict()


@routes.get("/models", responses=answers(Models))
def models(request: Request) -> Response:
    """The bundles that ?model= can ask for; without it, the default answers."""
    return json_answer({"models": door_of(request).shelf.listing()})
