"""Picture -> prediction: one ONNX session over one checked bundle."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shutterless.bundles import Bundle
from shutterless.errors import BadBundle, BadRequest
from shutterless.pictures import LIMITS, Limits, reading
from shutterless.preprocessing import to_pixels
from shutterless.sessions import Session

TOP = 5


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one picture shows. `confidence` is the calibrated probability; `top` has (index, label, confidence),
    best first; `in_distribution` is None where the bundle has no threshold for it."""

    pred_index: int
    label: str
    confidence: float
    top: tuple[tuple[int, str, float], ...]
    in_distribution: bool | None

    def ranked(self) -> list[dict[str, Any]]:
        """`top` as clients see it."""
        return [{"index": index, "label": label, "confidence": confidence} for index, label, confidence in self.top]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds. `decode_s` is a part of `preprocess_s`; `model_load_s` was spent once, when the session was opened."""

    model_load_s: float
    decode_s: float
    preprocess_s: float
    inference_s: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prediction, with what made it and what it took."""

    prediction: Prediction
    timings: Timings
    model: dict[str, str]
    cold_start: bool

    def to_json_dict(self) -> dict[str, Any]:
        """The body of `POST /predict`."""
        prediction, timings = self.prediction, self.timings
        return {
            "pred_index": prediction.pred_index,
            "label": prediction.label,
            "confidence": prediction.confidence,
            "top": prediction.ranked(),
            "in_distribution": prediction.in_distribution,
            "timings": {"model_load_s": timings.model_load_s, "preprocess_s": timings.preprocess_s,
                        "inference_s": timings.inference_s},
            "model": self.model,
            "cold_start": self.cold_start,
        }


class Classifier:
    """Opens the bundle's graph once; any number of threads may then call `predict` at the same time."""

    def __init__(self, bundle: Bundle, threads: int = 1, session: Session | None = None) -> None:
        """`session`: of this bundle, where it is open already. Raises BadBundle as `Session` does."""
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._session = session or Session(bundle, threads)
        self._first = threading.Lock()  # taken by the first answer and never given back
        self.model_load_s = self._session.load_s
        self.run_s = float("inf")  # of one picture through the network; known after `warm_up`

    def predict(self, picture: bytes, top: int = TOP, limits: Limits = LIMITS) -> Answer:
        """Decode, resize, run. Raises BadPicture for the picture, BadRequest for `top`."""
        started = time.perf_counter()
        pixels, decoded = self._pixels(picture, limits)
        prepared = time.perf_counter()
        logits = self.classify(pixels[np.newaxis])
        timings = Timings(model_load_s=self.model_load_s, decode_s=decoded - started, preprocess_s=prepared - started,
                          inference_s=time.perf_counter() - prepared)
        return Answer(prediction=self.predictions(logits, top)[0], timings=timings, model=self.model,
                      cold_start=self._first.acquire(blocking=False))

    def pixels(self, picture: bytes, limits: Limits = LIMITS) -> NDArray[np.uint8]:
        """uint8 (side, side, 3) of one picture; stacked, they are what `classify` takes. Raises BadPicture."""
        return self._pixels(picture, limits)[0]

    def _pixels(self, picture: bytes, limits: Limits) -> tuple[NDArray[np.uint8], float]:
        """uint8 (side, side, 3), and the moment when the picture was decoded. A function of its own, since a name would
        keep the decoded picture, up to 160 MB, in memory while the network runs."""
        with reading(picture, limits) as rgb:
            decoded = time.perf_counter()
            return to_pixels(rgb, self.manifest.input), decoded

    def classify(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, side, side, 3) -> logits float32 (N, classes)."""
        return self._session.run(pixels)

    def predictions(self, logits: NDArray[np.float32], top: int = TOP) -> list[Prediction]:
        """One prediction a row of logits (N, classes); `top` is capped at the number of labels."""
        if top < 1:
            raise BadRequest(f"top: expected 1 or more, got {top}. Leave it out for {TOP}.")
        if not np.isfinite(logits).all():
            raise BadBundle(f"{self.manifest.name}: expected finite logits, got NaN or infinity. Export it again.")
        return [self._prediction(row, top) for row in logits.astype(np.float64)]

    def _prediction(self, logits: NDArray[np.float64], top: int) -> Prediction:
        confidences = softmax(logits / self.manifest.temperature)
        best = np.argsort(-confidences, kind="stable")[:top]
        ranked = tuple((int(i), self.manifest.labels[i], float(confidences[i])) for i in best)
        index, label, confidence = ranked[0]
        threshold = self.manifest.ood_threshold
        return Prediction(pred_index=index, label=label, confidence=confidence, top=ranked,
                          in_distribution=None if threshold is None else energy(logits) >= threshold)

    @property
    def model(self) -> dict[str, str]:
        """Who answers: name, version, digest of the manifest."""
        return {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.bundle.sha256}

    def warm_up(self) -> None:
        """Take one blank picture the whole way, so that the first real one finds all imported and allocated."""
        side = self.manifest.input.side + 1  # so that it is resized
        self.pixels(Image.new("RGB", (side, side)).tobytes("jpeg", "RGB"))  # save() would import what writes other formats
        self.predictions(self._session.warm_up())
        self.run_s = self._session.run_s


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (classes,) that sum to 1, without overflow for any finite logits."""
    powers = np.exp(logits - logits.max())
    probabilities: NDArray[np.float64] = powers / powers.sum()
    return probabilities


def energy(logits: NDArray[np.float64]) -> float:
    """Negative free energy in nats, log of the sum of exp(logits): high for pictures like those that were trained on
    (Liu et al., Energy-based Out-of-distribution Detection, 2020)."""
    highest = logits.max()
    return float(highest + np.log(np.exp(logits - highest).sum()))
