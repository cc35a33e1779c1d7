"""What an export starts from: a finished training, or a network with what its author knows about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_export.architectures import LITE_SIZES, build
from model_export.calibration import find_calibration, folder_labels, left_out
from model_export.datasets import Pictures, find_pictures, names_digest, split
from model_export.errors import ExportError
from model_export.imagenet import LITE_WEIGHTS_LICENCE
from model_export.networks import Network
from model_export.presets import Preprocessing
from model_export.train import Training
from model_export.weights import file_digest, load_state, read_state
from shutterless.manifests import InputSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained network in eval mode, and the pictures that it may be calibrated and judged on.

    parts: indices into `pictures`: "train" to calibrate on, "val" to fit the temperature, "test" to report on.
    unseen: whether val and test are known not to have been trained on. labelled: whether the pictures' targets are labels.
    notes: what a person should know of it, each with its name; nothing that was guessed goes unsaid.
    """

    model: nn.Module
    arch: str
    spec: InputSpec
    labels: tuple[str, ...]
    pictures: Pictures | None
    parts: dict[str, NDArray[np.int64]]
    unseen: bool
    labelled: bool = True
    notes: tuple[tuple[str, str], ...] = ()
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
    model = build(training["arch"], len(labels), spec.side)
    load_state(model, read_state(weights), source=str(weights))
    split_record = {"seed": training["seed"], **{name: entry["n"] for name, entry in run["split"].items()},
                    "test_names_sha256": run["split"]["test"]["names_sha256"]}
    licence = f"started from ImageNet weights under {LITE_WEIGHTS_LICENCE}" if training["arch"] in LITE_SIZES else None
    return Source(model=model.eval(), arch=training["arch"], spec=spec, labels=labels, pictures=pictures, parts=parts,
                  unseen=True, notes=(("preprocessing", str(Preprocessing(spec, "the training"))),),
                  provenance={"architecture": training["arch"], "weights_sha256": file_digest(weights),
                              "data": pictures.root.name, "licence": licence, "split": split_record,
                              "commands": commands(folder)})


def from_network(network: Network, *, labels: Path | None = None, data: str | None = None, calibration: str | None = None,
                 prepared: Path, advance: Callable[[int, int], object] = lambda n, total: None) -> Source:
    """A network with what its author knows about it.

    `labels`: a text file with one label a line; else those published with the network, the class folders of the pictures
    where there are as many, or plain indices. `data`: labelled pictures in class folders, all of them readable;
    `calibration`: any pictures, of which broken ones are skipped. `advance` is told how many of how many were read.
    """
    if data and calibration:
        raise ExportError("--data and --calibration both name pictures. Give --data where they lie in class folders and must all "
                          "be readable, else --calibration.")
    names, origin = _labels(labels, network, data or calibration)
    spec, said, labelled = network.preprocessing.spec, "none given", True
    pictures, parts = None, dict[str, NDArray[np.int64]]()
    if data:
        pictures = _relabel(find_pictures(data), names)
        parts = split(pictures, seed=0, val=0.2, test=0.4)
        said = f"{len(pictures.names)} of {pictures.root.name}{left_out(pictures.root)}"
    elif calibration:
        found = find_calibration(calibration, names, spec, prepared, advance)
        pictures, parts, labelled, said = found.pictures, found.parts, found.labelled, found.said
    notes = (("weights", network.origin), ("preprocessing", str(network.preprocessing)), ("labels", origin), ("pictures", said))
    return Source(model=network.model, arch=network.arch, spec=spec, labels=names, pictures=pictures, parts=parts, unseen=False,
                  labelled=labelled, notes=notes,
                  provenance={"architecture": network.arch, "weights_sha256": network.weights_sha256,
                              "data": pictures.root.name if pictures else None, "licence": network.licence, **dict(notes)})


def read_labels(file: Path) -> tuple[str, ...]:
    """One label a line, in the order of the outputs. Raises ExportError naming a label that stands twice."""
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{file} cannot be read as labels. Give a text file (UTF-8) with one label a line.") from error
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ExportError(f"{file.name} names {twice!r} twice, and answers could not be told apart. Make each line differ.")
    return names


def _labels(file: Path | None, network: Network, pictures: str | None) -> tuple[tuple[str, ...], str]:
    """The labels, and where they are from."""
    if file is not None:
        names = read_labels(file)
        if len(names) != network.n_outputs:
            raise ExportError(f"{file.name} has {len(names)} labels, and the weights have {network.n_outputs} outputs. Give one "
                              "label a line, in the order of the outputs.")
        return names, f"{len(names)} of {file.name}"
    if network.labels:
        return network.labels, f"{len(network.labels)} published with the weights"
    folders = folder_labels(pictures) if pictures else ()
    if len(folders) == network.n_outputs:
        return folders, f"the {len(folders)} folders of {Path(pictures or '').name}, sorted by name as torchvision does"
    return tuple(str(i) for i in range(network.n_outputs)), f"none given: indices from 0 to {network.n_outputs - 1}"


def _relabel(pictures: Pictures, labels: tuple[str, ...]) -> Pictures:
    unknown = sorted(set(pictures.labels) - set(labels))
    if unknown:
        raise ExportError(f"The folders {', '.join(unknown[:5])} in {pictures.root.name} are no labels of this model. Rename "
                          "the folders to its labels, or give pictures without labels: --calibration.")
    index = np.array([labels.index(label) for label in pictures.labels], np.int64)
    return Pictures(pictures.root, pictures.names, index[pictures.targets], labels)


def use_threads(n: int) -> None:
    """Let torch use `n` threads. Raises ExportError for fewer than one."""
    if n < 1:
        raise ExportError(f"--threads: expected 1 or more, got {n}. Leave it out for all cores.")
    torch.set_num_threads(n)


def commands(run: Path) -> list[str]:
    """The `shutterless train` commands that led to `run`, the first one first; folders of the machine are left out."""
    training = json.loads((run / "training.json").read_text())["training"]
    earlier: list[str] = []
    start = Path(training["weights"] or "none")
    if start.is_file() and (start.parent / "training.json").is_file():
        earlier, training = commands(start.parent), training | {"weights": f"{start.parent.name}/{start.name}"}
    usual = asdict(Training(data=""))
    options = [f"--{name.replace('_', '-')}" + ("" if value is True else f" {value or 'none'}")
               for name, value in training.items() if name != "data" and value != usual[name]]
    return [*earlier, " ".join(["shutterless train", Path(training["data"]).name, *options, f"--out {run.name}"])]
