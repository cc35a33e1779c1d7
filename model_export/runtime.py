"""ONNX Runtime as serving uses it, for measuring a graph that is not yet in a bundle."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from shutterless.sessions import BATCHED_LEVEL, OPTIMISED_LEVEL, PORTABLE_LEVEL, session_options


@dataclass(frozen=True)
class Graph:
    """A graph's file; one that was `optimised` offline is opened as it is, and one for `batches` nearly so."""

    path: Path
    optimised: bool = False
    batches: bool = False


def open_session(graph: Path | Graph, threads: int = 2) -> ort.InferenceSession:
    """A session on the CPU as doors open it; a path is that of a portable graph."""
    graph = graph if isinstance(graph, Graph) else Graph(graph)
    level = BATCHED_LEVEL if graph.batches else OPTIMISED_LEVEL if graph.optimised else PORTABLE_LEVEL
    options = session_options(threads, level=level)
    return ort.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])


def run(graph: Path | Graph, pixels: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits float32 (len(indices), labels) of pixels uint8 (N, side, side, 3), in batches of at most 32."""
    session = open_session(graph)
    name = session.get_inputs()[0].name
    batches = np.array_split(indices, math.ceil(len(indices) / 32))
    return np.concatenate([session.run(None, {name: pixels[part]})[0] for part in batches])


def write_optimised(source: Path, target: Path) -> None:
    """Write what ONNX Runtime makes of a portable graph on this machine, all optimisations on; weights in `target`.data."""
    options = session_options(1, level=PORTABLE_LEVEL)
    options.optimized_model_filepath = str(target)
    for key, value in (("file_name", f"{target.name}.data"), ("min_size_in_bytes", "1024")):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def executed_operators(graph: Path | Graph) -> Counter[str]:
    """How often each operator really runs after ONNX Runtime's optimisations (QLinearConv is int8, Conv is fp32)."""
    graph = graph if isinstance(graph, Graph) else Graph(graph)
    with TemporaryDirectory() as scratch:
        path = graph.path if graph.optimised else Path(scratch) / "optimised.onnx"
        if not graph.optimised:
            write_optimised(graph.path, path)
        return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)
