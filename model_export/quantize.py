"""Step 3: fp32 graph -> int8 graph, calibrated on training pictures; refused when it costs accuracy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from model_export.errors import ExportError
from model_export.graph import INPUT
from model_export.metrics import Drop, Logits, Targets, paired_drop

MAX_DROP_POINTS = 0.3
METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile,
           "entropy": CalibrationMethod.Entropy}


class Unproven(ExportError):
    """int8 is not taken: the pictures given show that it costs accuracy, or cannot show that it does not."""


@contextmanager
def _hushed() -> Iterator[None]:
    """onnxruntime's quantiser advises through the root logger what is done here already."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _Batches(CalibrationDataReader):
    def __init__(self, pixels: NDArray[np.uint8], batch: int, advance: Callable[[int, int], object]) -> None:
        self.batches: Iterator[NDArray[np.uint8]] = (pixels[i:i + batch] for i in range(0, len(pixels), batch))
        self.advance, self.n = advance, len(pixels)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self.batches, None)
        if batch is None:
            return None
        self.advance(len(batch), self.n)
        return {INPUT: batch}


def quantize(source: Path, target: Path, pixels: NDArray[np.uint8], *, method: str = "minmax",
             reduce_range: bool = False, advance: Callable[[int, int], object] = lambda n, total: None) -> None:
    """Static quantisation of `source` into `target`: QDQ, int8 weights per channel, uint8 activations.

    pixels: uint8 (N, side, side, 3), training pictures. The graph is pre-processed first, since convolutions that are
    not fused with their batch norm run slower in int8 than in fp32. uint8 activations with int8 weights are the fast
    pair on x86 with VNNI; without VNNI, `reduce_range` avoids overflow at the cost of one bit. `advance` is told how many
    of how many pictures are being run.
    """
    with TemporaryDirectory() as scratch, _hushed():
        whole, prepared = Path(scratch) / "whole.onnx", Path(scratch) / "prepared.onnx"
        onnx.save(onnx.load(str(source)), str(whole))  # a bundle's has its weights in a file beside it
        quant_pre_process(str(whole), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(target), _Batches(pixels, 16, advance), quant_format=QuantFormat.QDQ,
                        per_channel=True, reduce_range=reduce_range, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8, calibrate_method=METHODS[method],
                        nodes_to_exclude=_before_first_layer(prepared))


def _before_first_layer(path: Path) -> list[str]:
    """Names of the normalising nodes: kept in fp32, since int8 would round every pixel a second and third time."""
    names = []
    for node in onnx.load(str(path)).graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        names.append(node.name)
    return names


def check_drop(fp32: Logits, int8: Logits, targets: Targets) -> Drop:
    """Raises Unproven when int8 is worse than fp32 on the same pictures by more than 0.3 points."""
    drop = paired_drop(fp32, int8, targets)
    if drop.points > MAX_DROP_POINTS:
        raise Unproven(f"int8 is refused: on {drop.n} unseen pictures it loses {drop.points:.2f} points of accuracy (95 % "
                       f"interval of the paired difference {drop.low:+.2f} to {drop.high:+.2f}), more than the "
                       f"{MAX_DROP_POINTS} allowed. Give more calibration pictures, another --calibration-method, or "
                       "ship fp32: --precision fp32.")
    return drop
