"""BentoML: a Service with an API whose calls are batched."""

from __future__ import annotations

import os
from typing import Any

import bentoml
from PIL.Image import Image as PILImage

from benchmarks.peers.model import Model

WORKERS, THREADS = int(os.environ["PEER_WORKERS"]), int(os.environ["PEER_SERVICE_THREADS"])
BATCH, LATENCY_MS = int(os.environ["PEER_BATCH"]), int(os.environ["PEER_LATENCY_MS"])


@bentoml.service(workers=WORKERS, threads=THREADS, traffic={"timeout": 30}, metrics={"enabled": False},
                 logging={"access": {"enabled": False}})
class Predictor:
    def __init__(self) -> None:
        self.model = Model.from_environment()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=LATENCY_MS)
    def predict(self, file: list[PILImage]) -> list[dict[str, Any]]:
        return self.model.predict(file)

    @bentoml.api(route="/predict-one")
    def predict_one(self, file: PILImage) -> dict[str, Any]:
        return self.model.predict([file])[0]
