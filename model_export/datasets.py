"""Labelled pictures from EuroSAT's zip or any folder of class folders, split once and prepared once.

Prepared pictures go through the very preprocessing that serving uses, and stay in one memory-mapped array.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.errors import ExportError
from shutterless.errors import BadPicture
from shutterless.manifests import InputSpec
from shutterless.pictures import decode
from shutterless.preprocessing import to_pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures, not yet read: names relative to `root`, sorted; `targets` indexes `labels`."""

    root: Path
    names: tuple[str, ...]
    targets: NDArray[np.int64]
    labels: tuple[str, ...]

    def read_all(self) -> Iterator[bytes]:
        """The pictures' bytes, in the order of `names`."""
        if self.root.is_dir():
            yield from ((self.root / name).read_bytes() for name in self.names)
            return
        with zipfile.ZipFile(self.root) as archive:
            yield from (archive.read(name) for name in self.names)

    def subset(self, indices: NDArray[np.int64]) -> Pictures:
        """The pictures at `indices`, with all labels kept."""
        return Pictures(self.root, tuple(self.names[i] for i in indices), self.targets[indices], self.labels)


def find_pictures(root: str | Path) -> Pictures:
    """List a zip or folder whose pictures lie in one folder per class. Raises ExportError when there are none."""
    root = Path(root)
    if root.is_dir():
        names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = sorted(archive.namelist())
    else:
        raise ExportError(f"{root} is neither a folder nor a zip. Give a folder of class folders, or such a zip.")
    names = [name for name in names if Path(name).suffix.lower() in SUFFIXES and "/" in name and "__MACOSX" not in name]
    classes = [name.split("/")[-2] for name in names]
    labels = tuple(sorted(set(classes)))
    if len(labels) < 2:
        raise ExportError(f"{root} holds pictures of {len(labels)} classes; at least 2 are needed. Put the pictures of "
                          "each class into a folder with the class's name.")
    index = {label: i for i, label in enumerate(labels)}
    return Pictures(root, tuple(names), np.array([index[c] for c in classes], np.int64), labels)


def split(pictures: Pictures, *, seed: int, val: float, test: float) -> dict[str, NDArray[np.int64]]:
    """Indices of train, val and test: every class in the same proportion, the same for the same seed and names."""
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise ExportError(f"Shares for val and test must lie between 0 and 1 and leave some to train, got {val} and {test}.")
    generator = np.random.default_rng(seed)
    parts: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SPLITS}
    for target in range(len(pictures.labels)):
        members = generator.permutation(np.flatnonzero(pictures.targets == target))
        if len(members) == 0:  # a label of the model of which no pictures were given
            continue
        n_test, n_val = max(round(len(members) * test), 1), max(round(len(members) * val), 1)
        if len(members) < n_test + n_val + 1:
            raise ExportError(f"Class {pictures.labels[target]} has {len(members)} pictures; at least 3 are needed, one for "
                              "each of train, val and test.")
        for name, part in zip(SPLITS, np.split(members, [-(n_test + n_val), -n_test]), strict=True):
            parts[name].append(part)
    return {name: np.sort(np.concatenate(part)) for name, part in parts.items()}


def names_digest(pictures: Pictures) -> str:
    """sha256 of the pictures' names: says which ones a figure stands on, without listing them."""
    return hashlib.sha256("\n".join(pictures.names).encode()).hexdigest()


def prepare(pictures: Pictures, spec: InputSpec, target: Path,
            advance: Callable[[int], object] = lambda n: None) -> NDArray[np.uint8]:
    """Decode and resize all pictures into a memory-mapped uint8 array (N, side, side, 3) at `target`.

    An array that an earlier call finished for the same names and input is taken as it is. Raises ExportError naming
    the first picture that cannot be read. `advance` is told how many pictures were done.
    """
    key = hashlib.sha256(f"{names_digest(pictures)} {spec.size} {spec.resize} {spec.crop} {spec.interpolation}".encode())
    path = target / f"pixels-{key.hexdigest()[:16]}.npy"
    if not path.exists():
        target.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        shape = (len(pictures.names), spec.side, spec.side, 3)
        pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
        for i, picture in enumerate(_decoded(pictures, spec)):
            pixels[i] = picture
            advance(1)
        pixels.flush()
        unfinished.rename(path)
    else:
        advance(len(pictures.names))
    return np.load(path, mmap_mode="r")


def _decoded(pictures: Pictures, spec: InputSpec) -> Iterator[NDArray[np.uint8]]:
    def one(name: str, picture: bytes) -> NDArray[np.uint8]:
        try:
            return to_pixels(decode(picture), spec)
        except BadPicture as error:
            raise ExportError(f"{name}: {error} Remove or replace this picture.") from error

    named = zip(pictures.names, pictures.read_all(), strict=True)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(named, 256)):
            yield from pool.map(lambda pair: one(*pair), batch)



def find_outliers(root: str | Path, spec: InputSpec, most: int = 1000) -> NDArray[np.uint8]:
    """Pixels uint8 (n, side, side, 3) of pictures of another kind, in a zip or folder without classes."""
    root = Path(root)
    names = (sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()) if root.is_dir()
             else sorted(zipfile.ZipFile(root).namelist()))
    names = [name for name in names if Path(name).suffix.lower() in SUFFIXES][:most]
    if not names:
        raise ExportError(f"{root.name} holds no pictures. Give a folder or zip of pictures of another kind.")
    pictures = Pictures(root, tuple(names), np.zeros(len(names), np.int64), ("outlier",))
    return np.stack(list(_decoded(pictures, spec)))
