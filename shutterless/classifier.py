"""Picture -> prediction: one ONNX session over one checked bundle."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shutterless.bundles import Bundle
from shutterless.errors import BadBundle, BadRequest
from shutterless.pictures import LIMITS, Limits, reading
from shutterless.preprocessing import to_pixels
from shutterless.sessions import Session

NO_EXIF = b"\xff\xe1\x00\x02"  # a segment for EXIF with nothing in it: a JPEG with it goes the way of a phone's
TOP = 5


class Prediction(NamedTuple):
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


class Prepared(NamedTuple):
    """A picture as the network takes it, uint8 (side, side, 3), and the seconds that took; `decode_s` is a part of
    `preprocess_s`."""

    pixels: NDArray[np.uint8]
    decode_s: float
    preprocess_s: float


class Timings(NamedTuple):
    """Seconds. `decode_s` is a part of `preprocess_s`; `model_load_s` was spent once, when the session was opened;
    `inference_s` is that of the whole batch, since each of its pictures waited so long."""

    model_load_s: float
    decode_s: float
    preprocess_s: float
    inference_s: float


class Answer(NamedTuple):
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
        self.threads = self._session.threads
        self.model_load_s = self._session.load_s
        self.run_s = float("inf")  # of one picture through the network; known after `warm_up`

    def predict(self, picture: bytes, top: int = TOP, limits: Limits = LIMITS) -> Answer:
        """Decode, resize, run. Raises BadPicture for the picture, BadRequest for `top`."""
        return self.answers([self.prepare(picture, limits)], top)[0]

    def prepare(self, picture: bytes, limits: Limits = LIMITS) -> Prepared:
        """All that comes before the network. Raises BadPicture."""
        started = time.perf_counter()
        pixels, decoded = self._pixels(picture, limits)
        return Prepared(pixels=pixels, decode_s=decoded - started, preprocess_s=time.perf_counter() - started)

    def answers(self, pictures: Sequence[Prepared], top: int = TOP) -> list[Answer]:
        """One run of the network for all of `pictures`, and an answer to each. Raises BadRequest for `top`."""
        started = time.perf_counter()
        first = pictures[0].pixels[np.newaxis]
        logits = self.classify(first if len(pictures) == 1 else np.stack([picture.pixels for picture in pictures]))
        spent_s = time.perf_counter() - started
        self.run_s = min(self.run_s, spent_s)  # its warm-up may have met a busy moment
        return [Answer(prediction=prediction, model=self.model, cold_start=self._first.acquire(blocking=False),
                       timings=Timings(model_load_s=self.model_load_s, decode_s=picture.decode_s,
                                       preprocess_s=picture.preprocess_s, inference_s=spent_s))
                for picture, prediction in zip(pictures, self.predictions(logits, top), strict=True)]

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
        exact = logits.astype(np.float64)
        confidences, threshold = softmax(exact / self.manifest.temperature), self.manifest.ood_threshold
        best = (-confidences).argsort(axis=1, kind="stable")[:, :top]
        shares = [row[indices].tolist() for row, indices in zip(confidences, best, strict=True)]
        within = [None] * len(best) if threshold is None else (energy(exact) >= threshold).tolist()
        return [self._prediction(*row) for row in zip(best.tolist(), shares, within, strict=True)]

    def _prediction(self, indices: list[int], confidences: list[float], in_distribution: bool | None) -> Prediction:
        labels = self.manifest.labels
        ranked = tuple((index, labels[index], share) for index, share in zip(indices, confidences, strict=True))
        index, label, confidence = ranked[0]
        return Prediction(pred_index=index, label=label, confidence=confidence, top=ranked, in_distribution=in_distribution)

    @property
    def model(self) -> dict[str, str]:
        """Who answers: name, version, digest of the manifest."""
        return {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.bundle.sha256}

    def open_for_batches(self) -> None:
        """Take some tenths of a second now, which the first batch of pictures would wait for."""
        self._session.open_for_batches()

    def warm_up(self) -> None:
        """Take one blank picture the whole way, so that the first real one finds all imported and allocated."""
        side = self.manifest.input.side + 1  # so that it is resized
        plain = Image.new("RGB", (side, side)).tobytes("jpeg", "RGB")  # save() would import what writes other formats
        self.pixels(plain[:2] + NO_EXIF + plain[2:])
        self.predictions(self._session.warm_up())
        self.run_s = self._session.run_s


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (..., classes) whose rows sum to 1, without overflow for any finite logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def energy(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Negative free energy in nats, log of the sum of exp(logits) over the last axis: high for pictures like those that
    were trained on (Liu et al., Energy-based Out-of-distribution Detection, 2020)."""
    highest = logits.max(axis=-1)
    found: NDArray[np.float64] = highest + np.log(np.exp(logits - highest[..., np.newaxis]).sum(axis=-1))
    return found
