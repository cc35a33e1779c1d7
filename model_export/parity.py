"""Step 2: does the graph say what the network says? Names first, then shapes, then values, on real pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_export import runtime
from model_export.errors import ExportError
from model_export.graph import INPUT, OUTPUT, Serving
from shutterless.manifests import InputSpec


@dataclass(frozen=True)
class Parity:
    """Of `n` pictures: the largest difference of a logit, that of a confidence, and the share of equal top-1."""

    n: int
    logits_difference: float
    confidence_difference: float
    top1_agreement: float


def check_parity(model: nn.Module, spec: InputSpec, path: Path, pixels: NDArray[np.uint8], *,
                 tolerance: float = 1e-3) -> Parity:
    """Compare the graph at `path` with `model` on pixels uint8 (N, side, side, 3).

    Raises ExportError saying expected, got and the largest difference when a name or shape differs, a top-1 changes
    or a logit differs by more than `tolerance`, relative to the largest logit.
    """
    serving = Serving(model, spec).eval()
    with torch.inference_mode():
        expected = np.concatenate([serving(torch.from_numpy(pixels[part])).numpy()
                                   for part in np.array_split(np.arange(len(pixels)), max(len(pixels) // 64, 1))])
    session = runtime.open_session(path)
    _same("input", [INPUT, "tensor(uint8)", [spec.side, spec.side, 3]],
          [session.get_inputs()[0].name, session.get_inputs()[0].type, session.get_inputs()[0].shape[1:]])
    _same("output", [OUTPUT, "tensor(float)", [expected.shape[1]]],
          [session.get_outputs()[0].name, session.get_outputs()[0].type, session.get_outputs()[0].shape[1:]])
    got = runtime.run(path, pixels, np.arange(len(pixels)))
    parity = measure(expected, got)
    limit = tolerance * max(float(np.abs(expected).max()), 1.0)
    if not parity.logits_difference <= limit or parity.top1_agreement < 1:
        raise ExportError(f"The graph does not answer like the network: largest difference of a logit expected at most "
                          f"{limit:.2e}, got {parity.logits_difference:.2e}; top-1 agrees on {parity.top1_agreement:.2%} of "
                          f"{parity.n} pictures. Call model.eval() in your own factory, and look for operations that "
                          "depend on the batch or on chance.")
    return parity


def measure(expected: NDArray[np.float32], got: NDArray[np.float32]) -> Parity:
    """How far apart two models' logits (N, labels) of the same pictures are."""
    from model_export.metrics import softmax

    return Parity(n=len(expected), logits_difference=float(np.abs(expected - got).max()),
                  confidence_difference=float(np.abs(softmax(expected) - softmax(got)).max()),
                  top1_agreement=float((expected.argmax(1) == got.argmax(1)).mean()))


def _same(what: str, expected: list[object], got: list[object]) -> None:
    if expected != got:
        raise ExportError(f"The graph's {what} differs: expected {expected}, got {got}. Export the graph again.")
