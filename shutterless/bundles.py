"""Model bundles on disk: find one by name, read it, and refuse it unless every byte is as its manifest says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from mmap import ACCESS_READ, MADV_WILLNEED, mmap
from pathlib import Path

from shutterless.errors import BadBundle, NotFound
from shutterless.hardware import Machine, this_machine
from shutterless.manifests import BundleFile, Manifest, OptimisedGraph, parse_manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were checked. `sha256` is the digest of manifest.json, which holds those of all others;
    `optimised` are the graphs that are opened on this machine in place of portable ones. `batched`: those for several pictures
    at a time, whose files are not checked yet: `for_batches` does that."""

    folder: Path
    manifest: Manifest
    sha256: str
    optimised: tuple[OptimisedGraph, ...] = ()
    batched: tuple[OptimisedGraph, ...] = ()

    def graph(self, portable: str = "model.onnx") -> tuple[str, bool]:
        """The file to open for a portable graph, and whether it is optimised already."""
        return next(((graph.graph, True) for graph in self.optimised if graph.of == portable), (portable, False))

    @property
    def needed(self) -> list[str]:
        """The files that are opened on this machine."""
        return self.manifest.needed(self.optimised)


def read_bundle(folder: str | Path, *, every_file: bool = False, machine: Machine | None = None) -> Bundle:
    """Read the manifest, choose the graph for this machine (or `machine`), and check each file's length, then its digest.

    Files that are not opened here, such as graphs for other machines, are checked with `every_file` only. Raises BadBundle
    naming what differs.
    """
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BadBundle(f"Expected {MANIFEST} in the bundle {folder.name}, got none that can be read. "
                        "Give the folder of one version, such as models/eurosat-lite0/1.") from error
    manifest = parse_manifest(text)
    bundle = Bundle(folder=folder, manifest=manifest, sha256=hashlib.sha256(text).hexdigest(),
                    optimised=choose_optimised(manifest, machine),
                    batched=choose_optimised(manifest, machine, batches=True))
    _check_files(bundle, manifest.files if every_file else bundle.needed)
    return bundle


def as_portable(bundle: Bundle) -> Bundle:
    """The same bundle with its portable graphs, which are checked now. Raises BadBundle naming what differs."""
    portable = replace(bundle, optimised=(), batched=())
    _check_files(portable, portable.needed)
    return portable


def for_batches(bundle: Bundle) -> Bundle:
    """The same bundle with its graphs for several pictures at a time, which are checked now; as it is where it has none. Raises
    BadBundle naming what differs."""
    batched = replace(bundle, optimised=bundle.batched or bundle.optimised)
    if bundle.batched:
        _check_files(batched, batched.needed)
    return batched


def choose_optimised(manifest: Manifest, machine: Machine | None = None, *, batches: bool = False) -> tuple[OptimisedGraph, ...]:
    """For each portable graph the first that was optimised for machines like this one (or `machine`), for one picture at a time
    or for several, if there is any."""
    made = [graph for graph in manifest.optimised if graph.batches == batches]
    if not made:
        return ()
    machine = machine or this_machine()
    fitting = {graph.of: graph for graph in reversed(made) if machine.takes(graph)}
    return tuple(fitting.values())


def _check_files(bundle: Bundle, paths: Iterable[str]) -> None:
    for path in paths:
        _check(bundle.folder / path, path, bundle.manifest.files[path])


def _check(file: Path, path: str, expected: BundleFile) -> None:
    if not file.is_file():
        raise BadBundle(f"{path}: expected a file of {expected.bytes:,} bytes, got none. {_REMEDY}")
    length = file.stat().st_size
    if length != expected.bytes:
        raise BadBundle(f"{path}: expected {expected.bytes:,} bytes, got {length:,}. {_REMEDY}")
    digest = _digest(file, length)
    if digest != expected.sha256:
        raise BadBundle(f"{path}: expected sha256 {expected.sha256}, got {digest}. {_REMEDY}")


def _digest(file: Path, length: int) -> str:
    """sha256 in hexadecimal, in one step over the mapped file: each one waits for Python's lock, which imports hold at a cold
    start."""
    digest = hashlib.sha256()
    if length:
        with file.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
            content.madvise(MADV_WILLNEED)  # all of it, where it has to come from a disk
            digest.update(content)
    return digest.hexdigest()


_REMEDY = "Download the bundle again, or export it anew."


def find_bundle(model: str, models_dir: str | Path) -> Path:
    """The folder of "name" (its highest version), of "name/version", or of a path that holds a manifest.

    For an operator's word: a client's may only choose among models that are loaded. Raises NotFound.
    """
    name, _, version = model.partition("/")
    for folder in _versions(Path(models_dir) / name) if name not in ("", ".", "..") else []:
        if version in ("", folder.name):
            return folder
    if model and (Path(model) / MANIFEST).is_file():
        return Path(model)
    there = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in list_bundles(models_dir)) or "none"
    raise NotFound(f"No model is called {model!r}. There are: {there}. Choose one of them, or give a bundle's folder.")


def list_bundles(models_dir: str | Path) -> list[Path]:
    """The folder of each model's highest version, by name."""
    folder = Path(models_dir)
    models = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [versions[0] for model in models if (versions := _versions(model))]


def _versions(model: Path) -> list[Path]:
    """Highest first: 10 before 9, 1.10 before 1.9; what is not a number comes last."""
    folders = [manifest.parent for manifest in model.glob(f"[!.]*/{MANIFEST}")]  # .1.unfinished is no version yet
    return sorted(folders, key=lambda folder: (_numbers(folder.name), folder.name), reverse=True)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"[0-9]+(\.[0-9]+)*", version) else (-1,)
