"""The routes of function predict: POST /predict, GET /models, /health, /openapi.json, /docs."""

from __future__ import annotations

import re
from typing import Any

from lambdas.answers import Answer
from lambdas.docs import openapi, page
from lambdas.door import Door
from lambdas.events import MAX_INLINE_BYTES, Request
from lambdas.intake import read_picture
from lambdas.start import Model
from shutterless import __version__
from shutterless.errors import BadRequest

TOP, MAX_TOP = 5, 1000
MAX_LABELS = 20  # CloudWatch bills each label as a metric of its own


class Predictions:
    """`model` answers, as soon as it is open."""

    def __init__(self, model: Model) -> None:
        self._model, self._settings = model, model.settings

    def door(self) -> Door:
        """What `serve` takes."""
        return Door(function="predict", bare_path="/predict", settings=self._settings, routes={
            ("POST", "/predict"): self.predict, ("GET", "/models"): self.models, ("GET", "/health"): self.health,
            ("GET", "/openapi.json"): openapi, ("GET", "/docs"): page})

    def predict(self, request: Request) -> Answer:
        """One picture, one answer, as on-prem."""
        top = read_top(request.query.get("top"))
        submission = read_picture(request, self._settings.max_bytes)
        shelf = self._model.shelf()
        answer = shelf.answer(submission, model=request.query.get("model"), top=top)
        timings = answer.timings
        spent_ms = {"decode": 1000 * timings.decode_s, "preprocess": 1000 * (timings.preprocess_s - timings.decode_s),
                    "inference": 1000 * timings.inference_s}
        start_ms = self._model.steps.tell_once()
        counts = {"Predictions": 1} | ({"ColdStarts": 1} if start_ms else {})
        labels = shelf.default.manifest.labels
        label = answer.prediction.label
        return Answer(
            body=answer.to_json_dict(), headers={"server-timing": _server_timing(spent_ms | start_ms)},
            metrics=_metrics("", spent_ms) | _metrics("Start", start_ms), counts=counts,
            shares={"Confidence": answer.prediction.confidence},
            label=label if len(labels) <= MAX_LABELS and label in labels else None)

    def models(self, request: Request) -> Answer:
        """The bundles that ?model= can ask for."""
        return Answer(body={"models": self._model.shelf().listing()})

    def health(self, request: Request) -> Answer:
        """Is it alive, is it ready, and how large a picture does it take."""
        is_open = self._model.is_open()
        return Answer(body={"status": "ok", "ready": is_open, "checks": {"model": "ok" if is_open else "unavailable"},
                            "max_inline_bytes": min(self._settings.max_bytes, MAX_INLINE_BYTES), "version": __version__})


def read_top(text: str | None) -> int:
    """How many labels to rank, of the query's `top`, where an empty one counts as not filled in. Raises BadRequest."""
    if not text:
        return TOP
    if not re.fullmatch(r"\s*[+]?[0-9]{1,9}\s*", text) or not 1 <= int(text) <= MAX_TOP:
        shown = text[:80].encode("ascii", "replace").decode()
        raise BadRequest(f"top: expected an integer from 1 to {MAX_TOP}, got {shown!r}. Correct it, or leave it out for {TOP}.")
    return int(text)


def _server_timing(spent_ms: dict[str, float]) -> str:
    return ", ".join(f"{name};dur={ms:.2f}" for name, ms in spent_ms.items())


def _metrics(prefix: str, spent_ms: dict[str, float]) -> dict[str, Any]:
    """`warm-up` -> `StartWarmUp`."""
    return {prefix + name.title().replace("-", ""): ms for name, ms in spent_ms.items()}
