"""FastAPI and onnxruntime, as one writes them by hand: pictures that are waiting run as one batch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, Response, UploadFile

from benchmarks.peers.model import Model

BATCH, WAIT_S = int(os.environ["PEER_BATCH"]), float(os.environ["PEER_WAIT_MS"]) / 1000
DECODERS = ThreadPoolExecutor(int(os.environ["PEER_DECODERS"]))
RUNNERS = int(os.environ["PEER_RUNNERS"])

model = Model.from_environment()
queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future[dict[str, Any]]]] = asyncio.Queue()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    runners = ThreadPoolExecutor(RUNNERS)
    batchers = [asyncio.create_task(run_batches(runners)) for _ in range(RUNNERS)]
    yield
    for batcher in batchers:
        batcher.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(file: UploadFile) -> Response:
    picture, loop = await file.read(), asyncio.get_running_loop()
    pixels = await loop.run_in_executor(DECODERS, model.pixels, picture)
    answer: asyncio.Future[dict[str, Any]] = loop.create_future()
    queue.put_nowait((pixels, answer))
    return Response(orjson.dumps(await answer), media_type="application/json")


async def run_batches(runners: ThreadPoolExecutor) -> None:
    """Take what waits, up to BATCH; give those that come within WAIT_S a seat, too."""
    loop = asyncio.get_running_loop()
    while True:
        batch = [await queue.get()]
        until = loop.time() + WAIT_S
        while len(batch) < BATCH:
            try:
                batch.append(queue.get_nowait())
            except asyncio.QueueEmpty:
                if (left_s := until - loop.time()) <= 0:
                    break
                try:
                    batch.append(await asyncio.wait_for(queue.get(), left_s))
                except TimeoutError:
                    break
        pixels = np.stack([pixels for pixels, _ in batch])
        answers = await loop.run_in_executor(runners, model.answers, pixels)
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
