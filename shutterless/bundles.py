"""Model bundles on disk: find one by name, read it, and refuse it unless every byte is as its manifest says."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from shutterless.errors import BadBundle, NotFound
from shutterless.manifests import BundleFile, Manifest, parse_manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle whose files were checked. `sha256` is the digest of manifest.json, which holds those of all others."""

    folder: Path
    manifest: Manifest
    sha256: str


def read_bundle(folder: str | Path) -> Bundle:
    """Read the manifest and check each file's length, then its digest. Raises BadBundle naming what differs."""
    folder = Path(folder)
    try:
        text = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BadBundle(f"Expected {MANIFEST} in the bundle {folder.name}, got none that can be read. "
                        "Give the folder of one version, such as models/eurosat-lite0/1.") from error
    manifest = parse_manifest(text)
    for path, expected in manifest.files.items():
        _check(folder / path, path, expected)
    return Bundle(folder=folder, manifest=manifest, sha256=hashlib.sha256(text).hexdigest())


def _check(file: Path, path: str, expected: BundleFile) -> None:
    if not file.is_file():
        raise BadBundle(f"{path}: expected a file of {expected.bytes:,} bytes, got none. {_REMEDY}")
    length = file.stat().st_size
    if length != expected.bytes:
        raise BadBundle(f"{path}: expected {expected.bytes:,} bytes, got {length:,}. {_REMEDY}")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected.sha256:
        raise BadBundle(f"{path}: expected sha256 {expected.sha256}, got {digest}. {_REMEDY}")


_REMEDY = "Download the bundle again, or export it anew."


def find_bundle(model: str, models_dir: str | Path) -> Path:
    """The folder of "name" (its highest version), of "name/version", or of a path that holds a manifest.

    For an operator's word: a client's may only choose among models that are loaded. Raises NotFound.
    """
    name, _, version = model.partition("/")
    for folder in _versions(Path(models_dir) / name) if name else []:
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
