"""Picture -> prediction: one ONNX session over one checked bundle."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from shutterless.bundles import Bundle, as_portable
from shutterless.errors import BadBundle, BadRequest
from shutterless.pictures import LIMITS, Limits, reading
from shutterless.preprocessing import to_pixels

TOP = 5
SLOW_S = 0.05  # a run that takes so long is not repeated at start
LOG_ERRORS = 3  # onnxruntime's severity

log = logging.getLogger(__name__)


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
class Prepared:
    """A picture as the network takes it, uint8 (side, side, 3), and the seconds that took; `decode_s` is a part of
    `preprocess_s`."""

    pixels: NDArray[np.uint8]
    decode_s: float
    preprocess_s: float


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds. `decode_s` is a part of `preprocess_s`; `model_load_s` was spent once, when the session was opened;
    `inference_s` is that of the whole batch, since each of its pictures waited so long."""

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

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        """Raises BadBundle when the graph cannot be opened or does not fit the manifest."""
        started = time.perf_counter()
        self.bundle = bundle
        self.manifest = bundle.manifest
        self._session = open_session(bundle, threads)
        self._input, self._output = _check_graph(self._session, bundle)
        self._first = threading.Lock()  # taken by the first answer and never given back
        self.model_load_s = time.perf_counter() - started
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
        logits: NDArray[np.float32] = self._session.run([self._output], {self._input: pixels})[0]
        return logits

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

    def warm_up(self) -> None:
        """Take one blank picture the whole way, so that the first real one finds all imported and allocated."""
        blank = io.BytesIO()
        Image.new("RGB", (self.manifest.input.side,) * 2).save(blank, "JPEG")
        pixels = self.pixels(blank.getvalue())[np.newaxis]
        self.run_s = self._timed_run(pixels)
        if self.run_s < SLOW_S:  # the first run takes longer than those after it: worth knowing of a fast network alone
            self.run_s = self._timed_run(pixels)

    def _timed_run(self, pixels: NDArray[np.uint8]) -> float:
        started = time.perf_counter()
        self.predictions(self.classify(pixels))
        return time.perf_counter() - started


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


def open_session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    """The graph that was optimised for this machine, as it is, or else the portable one, optimised now.

    Raises BadBundle when the portable one cannot be opened either.
    """
    path, optimised = bundle.graph()
    try:
        return _session(bundle, path, session_options(threads, optimise=not optimised))
    except BadBundle:
        if not optimised:
            raise
    log.warning("%s of %s cannot be opened here, though it was made for such machines; the portable graph answers.", path,
                bundle.manifest.name)
    return open_session(as_portable(bundle), threads)


def session_options(threads: int, *, optimise: bool) -> onnxruntime.SessionOptions:
    """As every door sets them: `threads` that wait asleep, since cores are shared."""
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = LOG_ERRORS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(bundle: Bundle, path: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(bundle.folder / path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other common base
        raise BadBundle(f"{path}: expected a graph for onnxruntime {onnxruntime.__version__}, got one that it "
                        "cannot open. Export the bundle again.") from error


def _check_graph(session: onnxruntime.InferenceSession, bundle: Bundle) -> tuple[str, str]:
    """Names of the graph's input and output, which must be what the manifest promises."""
    side, classes = bundle.manifest.input.side, len(bundle.manifest.labels)
    pictures, logits = session.get_inputs(), session.get_outputs()
    _expect(bundle, "input", pictures, "tensor(uint8)", [side, side, 3])
    _expect(bundle, "output", logits, "tensor(float)", [classes])
    return pictures[0].name, logits[0].name


def _expect(bundle: Bundle, what: str, ports: list[Any], kind: str, shape: list[int]) -> None:
    """One port of any name; its first dimension, the batch, is free, the others are as given."""
    got = [(port.type, port.shape) for port in ports]
    fits = len(ports) == 1 and ports[0].type == kind and ports[0].shape[1:] == shape
    if not fits or isinstance(ports[0].shape[0], int):
        raise BadBundle(f"{bundle.graph()[0]}: expected one {what} {kind} of shape {['N', *shape]}, as the manifest says, "
                        f"got {got}. Export the bundle again.")
