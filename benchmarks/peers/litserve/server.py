"""LitServe: a LitAPI whose requests are batched."""

import os
import sys
from typing import Any

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from benchmarks.peers.model import Model


class Predictor(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model.from_environment()

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        return self.model.pixels(request["file"].file.read())  # LitServe has read the form

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, inputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.model.run(inputs if inputs.ndim == 4 else inputs[np.newaxis])

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return self.model.answer(output if output.ndim == 1 else output[0])


if __name__ == "__main__":
    api = Predictor(max_batch_size=int(os.environ["PEER_BATCH"]), batch_timeout=float(os.environ["PEER_WAIT_MS"]) / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["PEER_WORKERS"]),
                                fast_queue=os.environ["PEER_FAST_QUEUE"] == "1")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=int(os.environ["PEER_API_SERVERS"]),
               generate_client_file=False, log_level="warning", access_log=False)
