"""What an export starts from: a finished training, or a weights file with what its author knows about it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from model_export.architectures import LITE_SIZES, LITE_WEIGHTS_LICENCE, build
from model_export.datasets import Pictures, find_pictures, names_digest, split
from model_export.errors import ExportError
from model_export.train import Training
from model_export.weights import State, load_state, read_state
from shutterless.manifests import InputSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained network in eval mode, and the labelled pictures that it may be calibrated and judged on.

    parts: indices into `pictures`: "train" to calibrate on, "val" to fit the temperature, "test" to report on.
    unseen: whether val and test are known not to have been trained on.
    """

    model: nn.Module
    arch: str
    spec: InputSpec
    labels: tuple[str, ...]
    pictures: Pictures | None
    parts: dict[str, NDArray[np.int64]]
    unseen: bool
    provenance: dict[str, Any] = field(default_factory=dict)


def from_run(folder: Path, data: str | None = None) -> Source:
    """A folder that `shutterless train` finished. `data` says where its pictures are now, if they were moved.

    Raises ExportError when the training is not finished, or the pictures are not the ones that it was split on.
    """
    path = folder / "training.json"
    if not path.is_file():
        raise ExportError(f"{folder} has no training.json: that training is not finished. Run the same "
                          "`shutterless train` command again; it goes on where it stopped.")
    run = json.loads(path.read_text())
    training, labels = run["training"], tuple(run["labels"])
    spec = InputSpec(**run["input"])
    pictures = find_pictures(data or training["data"])
    parts = split(pictures, seed=training["seed"], val=training["val"], test=training["test"])
    for name, part in parts.items():
        if names_digest(pictures.subset(part)) != run["split"][name]["names_sha256"]:
            raise ExportError(f"The {name} pictures in {pictures.root.name} are not the ones of this training. Give the same "
                              "pictures: --data PATH.")
    weights = folder / "weights.pth"
    model = _load(training["arch"], len(labels), spec, weights)
    split_record = {"seed": training["seed"], **{name: entry["n"] for name, entry in run["split"].items()},
                    "test_names_sha256": run["split"]["test"]["names_sha256"]}
    return Source(model=model, arch=training["arch"], spec=spec, labels=labels, pictures=pictures, parts=parts, unseen=True,
                  provenance=_provenance(training["arch"], weights, pictures.root.name) | {
                      "split": split_record, "commands": commands(folder)})


def from_weights(weights: Path, *, arch: str, spec: InputSpec, labels: Path | None, data: str | None) -> Source:
    """A weights file. `labels`: a text file with one label a line, else the folders of `data`, else plain indices."""
    state = read_state(weights)
    pictures = find_pictures(data) if data else None
    names = _labels(labels, pictures, state)
    model = _load(arch, len(names), spec, weights)
    parts: dict[str, NDArray[np.int64]] = {}
    if pictures:
        pictures = _relabel(pictures, names)
        parts = split(pictures, seed=0, val=0.2, test=0.4)
    return Source(model=model, arch=arch, spec=spec, labels=names, pictures=pictures, parts=parts, unseen=False,
                  provenance=_provenance(arch, weights, pictures.root.name if pictures else None))


def _load(arch: str, n_labels: int, spec: InputSpec, weights: Path) -> nn.Module:
    model = build(arch, n_labels, spec.side)
    load_state(model, read_state(weights), source=str(weights))
    return model.eval()


def _outputs(state: State) -> int:
    last = list(state.values())[-1]  # the bias of the last layer
    if last.ndim == 0:
        raise ExportError("The weights do not end in the bias of a last layer, so their outputs cannot be counted. Save "
                          "the state dict of the classifier alone.")
    return int(last.shape[0])


def _labels(file: Path | None, pictures: Pictures | None, state: State) -> tuple[str, ...]:
    if file is None:
        return pictures.labels if pictures else tuple(str(i) for i in range(_outputs(state)))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    n_outputs = _outputs(state)
    if len(names) != n_outputs:
        raise ExportError(f"{file.name} has {len(names)} labels, and the weights have {n_outputs} outputs. Give one label a "
                          "line, in the order of the outputs.")
    return names


def _relabel(pictures: Pictures, labels: tuple[str, ...]) -> Pictures:
    unknown = sorted(set(pictures.labels) - set(labels))
    if unknown:
        raise ExportError(f"The folders {', '.join(unknown[:5])} in {pictures.root.name} are no labels of this model. Rename "
                          "the folders to its labels.")
    index = np.array([labels.index(label) for label in pictures.labels], np.int64)
    return Pictures(pictures.root, pictures.names, index[pictures.targets], labels)


def _provenance(arch: str, weights: Path, data: str | None) -> dict[str, Any]:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    licence = f"started from ImageNet weights under {LITE_WEIGHTS_LICENCE}" if arch in LITE_SIZES else None
    return {"architecture": arch, "weights_sha256": digest, "data": data, "licence": licence}


def commands(run: Path) -> list[str]:
    """The `shutterless train` commands that led to `run`, the first one first; folders of the machine are left out."""
    training = json.loads((run / "training.json").read_text())["training"]
    earlier: list[str] = []
    if training["weights"] and (Path(training["weights"]).parent / "training.json").is_file():
        start = Path(training["weights"])
        earlier, training = commands(start.parent), training | {"weights": f"{start.parent.name}/{start.name}"}
    usual = asdict(Training(data=""))
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value or 'none'}")
               for name, value in training.items() if name != "data" and value != usual[name]]
    return [*earlier, " ".join(["shutterless train", Path(training["data"]).name, *options, f"--out {run.name}"])]
