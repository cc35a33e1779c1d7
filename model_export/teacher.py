"""Distillation: a bundle that knows the labels already answers beside the network that is trained."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model_export.errors import ExportError
from shutterless.bundles import read_bundle
from shutterless.sessions import open_session

TEMPERATURE, SHARE = 2.0, 0.9


class Teacher:
    """A classifier whose answers are learnt from (Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network,
    2015), asked about the very views that the student sees (Beyer et al., A good teacher is patient and consistent, 2022)."""

    def __init__(self, bundle: str, labels: tuple[str, ...]) -> None:
        """`bundle`: its folder. Raises BadBundle when it is not whole, ExportError when its labels are not `labels`."""
        read = read_bundle(bundle)
        manifest = read.manifest
        if manifest.labels != labels:
            raise ExportError(f"The teacher {manifest.name} knows {len(manifest.labels)} labels that are not those of the "
                              f"{len(labels)} folders of pictures. Choose a teacher that was trained on the same classes.")
        self._side = manifest.input.side
        self._session = open_session(read, torch.get_num_threads())
        self._input = self._session.get_inputs()[0].name

    def logits(self, views: Tensor) -> Tensor:
        """float (N, 3, side, side) in 0..1, of any side -> logits float (N, labels)."""
        sized = F.interpolate(views, (self._side, self._side), mode="bilinear", antialias=True)
        pixels = sized.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(self._session.run(None, {self._input: pixels})[0])

    def blend(self, loss: Tensor, logits: Tensor, views: Tensor) -> Tensor:
        """The loss of a batch: SHARE of it the divergence from the teacher's softened answers, the rest `loss`."""
        answers = F.log_softmax(self.logits(views) / TEMPERATURE, dim=1)
        own = F.log_softmax(logits / TEMPERATURE, dim=1)
        divergence = F.kl_div(own, answers, reduction="batchmean", log_target=True) * TEMPERATURE**2
        return SHARE * divergence + (1 - SHARE) * loss
