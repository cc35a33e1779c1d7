"""Step 1: trained network -> ONNX graph that takes pictures as they are: uint8 NHWC in, logits out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from shutterless.manifests import InputSpec

OPSET = 20
INPUT, OUTPUT = "pictures", "logits"


class Serving(nn.Module):
    """The network behind its normalisation: pixels uint8 (N, side, side, 3) -> logits float32 (N, labels)."""

    def __init__(self, model: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.model = model
        mean, std = torch.tensor(spec.mean).reshape(3, 1, 1), torch.tensor(spec.std).reshape(3, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("offset", -mean / std)

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = pictures.permute(0, 3, 1, 2).float()
        return self.model(pixels * self.scale + self.offset).float()  # type: ignore[operator]


def write_graph(model: nn.Module, spec: InputSpec, path: Path) -> None:
    """Write the graph of `model` behind its normalisation to `path`, any batch size, weights inside.

    Raises ExportError when an operator of the network has no ONNX counterpart.
    """
    serving = Serving(model, spec).eval()
    example = torch.zeros(2, spec.side, spec.side, 3, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter warns of its own internals; parity is checked on its result
            program = torch.onnx.export(serving, (example,), input_names=[INPUT], output_names=[OUTPUT],
                                        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), opset_version=OPSET,
                                        dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise ExportError(f"This network cannot be written as ONNX: {reason}. Replace that operation, or export with "
                          "fixed shapes in your own module.") from error
    assert program is not None  # noqa: S101 - with dynamo=True a program is returned, or an error was raised
    program.save(str(path), external_data=False)
    onnx.checker.check_model(str(path), full_check=True)


def opset(path: Path) -> int:
    """The version of ONNX's own operators that the graph uses."""
    imports = onnx.load(str(path), load_external_data=False).opset_import
    return max(entry.version for entry in imports if entry.domain in ("", "ai.onnx"))
