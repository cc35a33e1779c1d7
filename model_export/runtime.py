"""ONNX Runtime as serving uses it, for measuring a graph that is not yet in a bundle."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray


def open_session(path: Path, threads: int = 2) -> ort.InferenceSession:
    """A session on the CPU, all optimisations on, threads that do not spin."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits float32 (len(indices), labels) of pixels uint8 (N, side, side, 3), in batches of at most 32."""
    session = open_session(path)
    name = session.get_inputs()[0].name
    batches = np.array_split(indices, math.ceil(len(indices) / 32))
    return np.concatenate([session.run(None, {name: pixels[part]})[0] for part in batches])


def executed_operators(path: Path) -> Counter[str]:
    """How often each operator really runs after ONNX Runtime's optimisations (QLinearConv is int8, Conv is fp32)."""
    with TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(str(optimised)).graph.node)
