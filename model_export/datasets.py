"""Pictures from EuroSAT's zip or any folder, with labels where they lie in class folders; split once and prepared once.

Prepared pictures go through the very preprocessing that serving uses, and stay in one memory-mapped array.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
TEMPORARY = ".tmp"
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures, not yet read: names relative to `root`, sorted; `targets` indexes `labels`."""

    root: Path
    names: tuple[str, ...]
    targets: NDArray[np.int64]
    labels: tuple[str, ...]

    @contextmanager
    def opened(self) -> Iterator[Callable[[str], bytes]]:
        """A function from a name to the picture's bytes, for any number of threads."""
        if self.root.is_dir():
            yield lambda name: (self.root / name).read_bytes()
            return
        with zipfile.ZipFile(self.root) as archive:
            yield archive.read

    def stamp(self) -> str:
        """sha256 of names, lengths and what else says without reading them whether the files are the same ones."""
        if self.root.is_dir():
            known = {name: (self.root / name).stat() for name in self.names}
            told = [f"{self.root.resolve()} {name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in known.items()]
        else:
            with zipfile.ZipFile(self.root) as archive:
                told = [f"{name} {entry.file_size} {entry.CRC}" for name in self.names if (entry := archive.getinfo(name))]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def subset(self, indices: NDArray[np.int64]) -> Pictures:
        """The pictures at `indices`, with all labels kept."""
        return Pictures(self.root, tuple(self.names[i] for i in indices), self.targets[indices], self.labels)


def find_pictures(root: str | Path) -> Pictures:
    """List a zip or folder whose pictures lie in one folder per class. Raises ExportError when there are none."""
    root = Path(root)
    names = [name for name in picture_names(root) if "/" in name]
    classes = [name.split("/")[-2] for name in names]
    labels = tuple(sorted(set(classes)))
    if len(labels) < 2:
        raise ExportError(f"{root} holds pictures of {len(labels)} classes; at least 2 are needed. Put the pictures of "
                          "each class into a folder with the class's name.")
    index = {label: i for i, label in enumerate(labels)}
    return Pictures(root, tuple(names), np.array([index[c] for c in classes], np.int64), labels)


def picture_names(root: Path) -> list[str]:
    """Names of all pictures in a folder, at any depth, or in a zip: sorted, relative to `root`, without `hidden_names`."""
    return [name for name in _names(root) if not _is_hidden(name)]


def hidden_names(root: Path) -> list[str]:
    """Names of pictures that are left out: a part of the name begins with a dot, such as `../` in a zip."""
    return [name for name in _names(root) if _is_hidden(name)]


def _names(root: Path) -> list[str]:
    if root.is_dir():
        names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    elif zipfile.is_zipfile(root):
        with zipfile.ZipFile(root) as archive:
            names = archive.namelist()
    else:
        raise ExportError(f"{root} is neither a folder nor a zip. Give a folder of pictures, or such a zip.")
    return sorted(name for name in names if Path(name).suffix.lower() in SUFFIXES and "__MACOSX" not in name)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


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

    An array that an earlier call finished for the same files and input is taken as it is. Raises ExportError naming
    the first picture that cannot be read. `advance` is told how many pictures were done.
    """
    whole, skipped = prepare_readable(pictures, spec, target, advance, most_skipped=0)
    assert not skipped  # noqa: S101 - the first one was refused
    return np.load(_prepared(whole, spec, target), mmap_mode="r")


def prepare_readable(pictures: Pictures, spec: InputSpec, target: Path, advance: Callable[[int], object] = lambda n: None,
                     most_skipped: int | None = None) -> tuple[Pictures, dict[str, str]]:
    """Prepare what can be read, for `prepare` to find; returns those pictures, and why each of the others was skipped.

    Raises ExportError when more than `most_skipped` had to be skipped.
    """
    if _prepared(pictures, spec, target).exists():
        advance(len(pictures.names))
        return pictures, {}
    with _without_leftovers(target):
        return _prepare(pictures, spec, target, advance, most_skipped)


def _prepare(pictures: Pictures, spec: InputSpec, target: Path, advance: Callable[[int], object],
             most_skipped: int | None) -> tuple[Pictures, dict[str, str]]:
    unfinished, shorter = (target / f"pixels-{os.getpid()}{end}{TEMPORARY}" for end in ("", "-readable"))
    pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8,
                                       shape=(len(pictures.names), spec.side, spec.side, 3))
    good: list[int] = []
    skipped: dict[str, str] = {}
    try:
        for i, picture in enumerate(decoded(pictures, spec)):
            advance(1)
            if isinstance(picture, BadPicture):
                skipped[pictures.names[i]] = str(picture)
                if most_skipped is not None and len(skipped) > most_skipped:
                    raise ExportError(f"{pictures.names[i]}: {picture} Remove or replace this picture.") from picture
                continue
            pixels[len(good)] = picture
            good.append(i)
        pixels.flush()
        if skipped:
            with shorter.open("wb") as file:
                np.save(file, pixels[:len(good)])
            shorter.rename(unfinished)
        readable = pictures.subset(np.array(good, np.int64))
        unfinished.rename(_prepared(readable, spec, target))
    finally:
        unfinished.unlink(missing_ok=True)
        shorter.unlink(missing_ok=True)
    return readable, skipped


@contextmanager
def _without_leftovers(folder: Path) -> Iterator[None]:
    """What killed processes left in it is removed, unless another one is at work there; none removes anything while this lasts.
    On file systems whose folders cannot be locked, such as NFS, leftovers stay."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # another is at work
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(f"pixels-*{TEMPORARY}"):
                left.unlink()
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)


def _prepared(pictures: Pictures, spec: InputSpec, target: Path) -> Path:
    key = f"{pictures.stamp()} {spec.size} {spec.resize} {spec.crop} {spec.interpolation}"
    return target / f"pixels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"


def decoded(pictures: Pictures, spec: InputSpec) -> Iterator[NDArray[np.uint8] | BadPicture]:
    """Pixels uint8 (side, side, 3) of each picture in order, or why it has none."""
    def one(name: str) -> NDArray[np.uint8] | BadPicture:
        try:
            return to_pixels(decode(read(name)), spec)
        except BadPicture as error:
            return error
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error):  # RuntimeError: it is encrypted
            return BadPicture("Expected a file that can be read, got an error of the disk, the rights or the zip.")

    named = iter(pictures.names)
    with pictures.opened() as read, ThreadPoolExecutor() as pool:
        while batch := list(islice(named, 256)):
            yield from pool.map(one, batch)
