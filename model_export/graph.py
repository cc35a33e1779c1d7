"""Step 1: trained network -> ONNX graph that takes pictures as they are: uint8 NHWC in, logits out."""

from __future__ import annotations

import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model_export.errors import ExportError
from shutterless.manifests import InputSpec

OPSET = 20
INPUT, OUTPUT = "pictures", "logits"


class Serving(nn.Module):
    """The network behind its normalisation: pixels uint8 (N, side, side, 3) -> logits float32 (N, labels)."""

    scale: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        # For each value of a row of pixels: onnxruntime takes ten times as long over a factor for every third value.
        self.register_buffer("scale", (1 / (255 * std)).repeat(spec.side))
        self.register_buffer("offset", (-mean / std).repeat(spec.side))

    def forward(self, pictures: Tensor) -> Tensor:
        rows = pictures.flatten(2).float()  # (N, side, 3 * side)
        pixels = (rows * self.scale + self.offset).unflatten(2, pictures.shape[2:])
        logits: Tensor = self.model(pixels.permute(0, 3, 1, 2)).float()
        return logits


def write_graph(model: nn.Module, spec: InputSpec, path: Path) -> None:
    """Write the graph of `model` behind its normalisation to `path`, any batch size, weights inside.

    Raises ExportError when an operator of the network has no ONNX counterpart.
    """
    serving = Serving(model, spec).eval()
    example = torch.zeros(2, spec.side, spec.side, 3, dtype=torch.uint8)
    try:
        with _hushed(), _PlainMeans(), torch.inference_mode():
            program = torch.onnx.export(serving, (example,), input_names=[INPUT], output_names=[OUTPUT],
                                        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), opset_version=OPSET,
                                        dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"This network cannot be written as ONNX: {_reason(error)}") from error
    assert program is not None  # noqa: S101 - with dynamo=True a program is returned, or an error was raised
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


class _PlainMeans(TorchFunctionMode):
    """Pooling over whole maps as the mean that it is. The exporter fetches each mean from where it lies, by a place that is
    calculated in every run: nine nodes for nothing, which take longer than the mean."""

    def __torch_function__(self, func: Callable[..., Any], types: Collection[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if func is nn.functional.adaptive_avg_pool2d:
            given = inspect.signature(func).bind(*args, **kwargs or {}).arguments
            if given["output_size"] in (1, (1, 1), [1, 1]):
                return given["input"].mean((-2, -1), keepdim=True)
        return func(*args, **kwargs or {})


@contextmanager
def _hushed() -> Iterator[None]:
    """The exporter warns of its own internals and prints graphs; parity is checked on its result."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _reason(error: Exception) -> str:
    """What stands in the way and what to do, from the exporter's own words."""
    said = str(error.__cause__ or error).strip()
    operator = re.search(r"target=torch\.ops\.([\w.]+)", said)
    if operator:
        return f"ONNX has no counterpart of its operator {operator[1]}. Replace that operation in its forward."
    if "data-dependent" in said:
        return "a decision in its forward depends on the pictures' values. Replace that `if` by torch.where."
    if "inferred a static shape" in said:
        return "its forward takes one batch size only. Reshape by -1 or x.shape[0], not by a number."
    return f"{said.splitlines()[0][:200]}. Replace that operation in its forward."


def opset(path: Path) -> int:
    """The version of ONNX's own operators that the graph uses."""
    imports = onnx.load(str(path), load_external_data=False).opset_import
    return max(entry.version for entry in imports if entry.domain in ("", "ai.onnx"))
