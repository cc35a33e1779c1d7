"""What every peer does with a picture, written once: decode with Pillow, resize as the manifest says, run, name. Each peer
brings the server around it. Needs numpy, Pillow and onnxruntime, of Shutterless nothing."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

TOP = 5


class Model:
    """The portable graph of a bundle: uint8 (N, side, side, 3) in, logits out."""

    def __init__(self, folder: Path, threads: int) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        self.labels, self.temperature = manifest["labels"], manifest.get("temperature", 1.0)
        self.threshold = manifest.get("ood_threshold")
        spec = manifest["input"]
        if spec.get("crop") or spec.get("interpolation", "bilinear") != "bilinear":
            raise SystemExit("Expected a bundle that resizes bilinearly and does not crop, got another.")
        self.side = spec["size"]
        self.name = {"name": manifest["name"], "version": manifest["version"]}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", os.environ.get("PEER_SPINNING", "0"))
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.run(np.zeros((1, self.side, self.side, 3), np.uint8))

    @classmethod
    def from_environment(cls) -> Model:
        """The bundle in the folder PEER_BUNDLE, with PEER_THREADS threads."""
        return cls(Path(os.environ["PEER_BUNDLE"]), int(os.environ.get("PEER_THREADS", "1")))

    def pixels(self, picture: bytes | Image.Image) -> NDArray[np.uint8]:
        """uint8 (side, side, 3)."""
        image = (Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture).convert("RGB")
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        return np.asarray(image)

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, side, side, 3) -> logits (N, labels)."""
        logits: NDArray[np.float32] = self.session.run(None, {self.input: pixels})[0]
        return logits

    def answer(self, logits: NDArray[np.float32]) -> dict[str, Any]:
        """One row of logits as our server answers it."""
        powers = np.exp((logits - logits.max()) / self.temperature)
        confidences = powers / powers.sum()
        best = np.argsort(-confidences)[:TOP]
        top = [{"index": int(i), "label": self.labels[i], "confidence": float(confidences[i])} for i in best]
        energy = float(logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        return {"pred_index": top[0]["index"], "label": top[0]["label"], "confidence": top[0]["confidence"], "top": top,
                "in_distribution": None if self.threshold is None else energy >= self.threshold, "model": self.name}

    def answers(self, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """One for each of N pictures (N, side, side, 3), from one run."""
        return [self.answer(row) for row in self.run(pixels)]

    def predict(self, pictures: Sequence[bytes | Image.Image]) -> list[dict[str, Any]]:
        """One answer a picture, from one run."""
        return self.answers(np.stack([self.pixels(picture) for picture in pictures]))
