"""The same network in PyTorch, as it comes: eager, fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_export.architectures import build
from model_export.graph import Serving, write_graph
from shutterless.manifests import InputSpec


class Eager:
    """An architecture with weights made on the spot, since time does not depend on them. Raises ExportError for a name that
    nobody knows."""

    def __init__(self, arch: str, n_labels: int, spec: InputSpec) -> None:
        torch.manual_seed(0)
        self._spec = spec
        self._model = build(arch, n_labels, spec.side).eval()
        self._serving = Serving(self._model, spec).eval()

    def run(self, pixels: NDArray[np.uint8], threads: int) -> NDArray[np.float32]:
        """uint8 (N, side, side, 3) -> logits float32 (N, labels)."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        with torch.inference_mode():
            logits: NDArray[np.float32] = self._serving(torch.from_numpy(pixels)).numpy()
        return logits

    def write(self, path: Path) -> None:
        """The same as a portable fp32 graph."""
        write_graph(self._model, self._spec, path)


def random_resnet50(classes: int, weights: Path) -> nn.Module:
    """A ResNet50 in eval mode whose weights are drawn by lot, always the same; its state dict is saved at `weights`."""
    from torchvision import models

    torch.manual_seed(0)
    model: nn.Module = models.resnet50(num_classes=classes).eval()
    torch.save(model.state_dict(), weights)
    return model
