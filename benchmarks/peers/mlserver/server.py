"""MLServer: a custom runtime, its predict batched adaptively, and a route of its own that takes a form."""

from __future__ import annotations

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor

from fastapi import UploadFile
from fastapi.responses import Response
from mlserver import MLModel
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, ResponseOutput

from benchmarks.peers.model import Model


class Predictor(MLModel):
    async def load(self) -> bool:
        self.model = Model.from_environment()
        self.runners = ThreadPoolExecutor(int(os.environ["PEER_RUNNERS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        pictures = payload.inputs[0].data.root
        answers = await asyncio.get_running_loop().run_in_executor(self.runners, self.model.predict, pictures)
        output = ResponseOutput(name="answers", datatype="BYTES", shape=[len(answers), 1], parameters=Parameters(),
                                data=[json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])

    @custom_handler(rest_path="/predict")
    async def predict_form(self, file: UploadFile) -> Response:
        picture = RequestInput(name="pictures", datatype="BYTES", shape=[1, 1], data=[await file.read()])
        with model_context(self.settings):  # which the batcher's metrics ask for, and custom routes lack
            answered = await self.predict(InferenceRequest(inputs=[picture]))
        return Response(answered.outputs[0].data.root[0], media_type="application/json")
