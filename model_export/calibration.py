"""Pictures to calibrate and to compare on: any will do, broken ones are left out by name, labels are taken where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.datasets import Pictures, decoded, hidden_names, picture_names, prepare_readable, split
from model_export.errors import ExportError
from shutterless.errors import BadPicture
from shutterless.manifests import InputSpec

MOST_UNLABELLED = 2048  # a random choice of more would move no range of int8
LEAST_PER_CLASS = 3  # one for each part of a split
MOST_OUTLIERS = 1000
MOST_NAMED = 20  # broken pictures


@dataclass(frozen=True)
class Calibration:
    """Readable pictures, `parts` as in Source, whether their `targets` are labels, and what is to be said of them."""

    pictures: Pictures
    parts: dict[str, NDArray[np.int64]]
    labelled: bool
    said: str


def find_calibration(root: str | Path, labels: Sequence[str], spec: InputSpec, prepared: Path,
                     advance: Callable[[int, int], object] = lambda n, total: None) -> Calibration:
    """The pictures of a folder or zip, at any depth. They have labels when each lies in a folder whose name is one.

    Without labels, at most 2,048 are chosen. Raises ExportError when there is no readable picture. `advance` is told of
    each picture that was read, and of how many there are.
    """
    root = Path(root)
    listed, strange = _listed(root, tuple(labels))
    n = len(listed.names)
    pictures, skipped = prepare_readable(listed, spec, prepared, lambda one: advance(one, n)) if n else (listed, {})
    if not pictures.names:
        raise ExportError(f"{root.name} holds no picture that can be read{_skipped(skipped)}{left_out(root)}. Give a folder or "
                          "zip of pictures like those that the network was trained on.")
    labelled = bool((pictures.targets >= 0).all())
    said = "labelled by their folders" if labelled else "without labels" + strange
    if labelled and _too_few(pictures):
        labelled, said = False, f"labels not used, since a class has fewer than {LEAST_PER_CLASS} pictures"
    parts = split(pictures, seed=0, val=0.2, test=0.4) if labelled else halves(len(pictures.names))
    said = f"{len(pictures.names)} of {root.name}, {said}{_skipped(skipped)}{left_out(root)}"
    return Calibration(pictures, parts, labelled, said)


def find_outliers(root: str | Path, spec: InputSpec,
                  advance: Callable[[int, int], object] = lambda n, total: None) -> tuple[NDArray[np.uint8], str]:
    """Pixels uint8 (n, side, side, 3) of pictures of another kind, in a zip or folder, the first 1,000 by name; and what is to be
    said of them. Raises ExportError when there is no readable picture."""
    root = Path(root)
    names = picture_names(root)
    pictures = Pictures(root, tuple(names[:MOST_OUTLIERS]), np.zeros(len(names[:MOST_OUTLIERS]), np.int64), ("outlier",))
    found, skipped = [], dict[str, str]()
    for name, picture in zip(pictures.names, decoded(pictures, spec), strict=True):
        advance(1, len(pictures.names))
        if isinstance(picture, BadPicture):
            skipped[name] = str(picture)
        else:
            found.append(picture)
    if not found:
        raise ExportError(f"{root.name} holds no picture that can be read{_skipped(skipped)}{left_out(root)}. Give a folder or "
                          "zip of pictures of another kind.")
    first = f", the first {MOST_OUTLIERS} of {len(names)} by name" if len(names) > MOST_OUTLIERS else ""
    return np.stack(found), f"{len(found)} of {root.name}{first}{_skipped(skipped)}{left_out(root)}"


def folder_labels(root: str | Path) -> tuple[str, ...]:
    """Names of the folders that pictures lie in, sorted as torchvision's ImageFolder does; none where one lies in no folder."""
    folders = [_folder(name) for name in picture_names(Path(root))]
    return () if None in folders else tuple(sorted({str(folder) for folder in folders}))


def halves(n: int) -> dict[str, NDArray[np.int64]]:
    """Without labels: one half to calibrate on, the other for the threshold, and all to compare on. One is in all three."""
    order = np.random.default_rng(0).permutation(n)
    return {"train": np.sort(order[:max(n // 2, 1)]), "val": np.sort(order[n // 2:]), "test": np.arange(n)}


def _listed(root: Path, labels: tuple[str, ...]) -> tuple[Pictures, str]:
    """Targets are -1 without labels; then a sentence's end says which folder kept the others from having some."""
    names = picture_names(root)
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    targets = np.array([index.get(_folder(name), -1) for name in names], np.int64)
    if (targets >= 0).all():
        return Pictures(root, tuple(names), targets, labels), ""
    stranger = names[int(np.flatnonzero(targets < 0)[0])]
    strange = f" (the folder of {stranger} is none)" if (targets >= 0).any() else ""
    chosen = np.sort(np.random.default_rng(0).permutation(len(names))[:MOST_UNLABELLED])
    return Pictures(root, tuple(names[i] for i in chosen), np.full(len(chosen), -1), labels), strange


def _folder(name: str) -> str | None:
    return name.split("/")[-2] if "/" in name else None


def _too_few(pictures: Pictures) -> bool:
    counts = np.bincount(pictures.targets)
    return bool((counts[counts > 0] < LEAST_PER_CLASS).any())


def _skipped(skipped: dict[str, str]) -> str:
    if not skipped:
        return ""
    named = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:MOST_NAMED])
    return f"; {len(skipped)} skipped ({named}{'; and others' if len(skipped) > MOST_NAMED else ''})"


def left_out(root: Path) -> str:
    """The end of a sentence about the pictures of a folder or zip: which are not read for their names, if there are any."""
    names = hidden_names(root)
    if not names:
        return ""
    others = "; and others" if len(names) > MOST_NAMED else ""
    return f"; {len(names)} left out, since their names begin with a dot ({', '.join(names[:MOST_NAMED])}{others})"
