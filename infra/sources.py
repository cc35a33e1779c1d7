"""What goes into an image, and the hash that stands for it: for `shutterless images`, and for CDK, which has the command line
build the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.errors import BadSettings

ROOT = Path(__file__).parent.parent
AWS_BASE = "public.ecr.aws/lambda/python:3.13"
PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}  # Lambda's words for processors -> Docker's
DATABASE_CA = "docker/rds-ca.pem"  # that vouch for RDS and RDS Proxy; their note says where they are from


def recipe_of(image: str) -> Path:
    return ROOT / "docker" / f"{image}.Dockerfile"


def arguments_of(recipe: Path, values: Mapping[str, str]) -> dict[str, str]:
    """Of `values`, the build arguments that this Dockerfile declares."""
    text = recipe.read_text(encoding="utf-8")
    return {name: value for name, value in values.items() if re.search(rf"^ARG {name}\b", text, re.MULTILINE)}


def source_hash(recipe: Path, values: Mapping[str, str]) -> str:
    """16 hex digits that stand for all that goes into an image: the Dockerfile, what it copies, and build arguments."""
    text = re.sub(r"\$\{(\w+)\}", lambda name: values.get(name[1], ""), recipe.read_text(encoding="utf-8"))
    copied = [source for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for source in line.split()[:-1]]
    return hash_of([recipe, *files_of(copied)], values)


def files_of(names: Iterable[str]) -> list[Path]:
    """All files of these files and folders of the project that a build sees, in order."""
    places = [ROOT / name for name in names]
    found = {file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()}
    return sorted(file for file in found if not {"__pycache__", "plots"} & {*file.parts} and not file.name.startswith("report.")
                  and ".so" not in file.suffixes)


def hash_of(files: list[Path], values: Mapping[str, str]) -> str:
    """16 hex digits."""
    listed = [(file.relative_to(ROOT).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return hashlib.sha256(json.dumps([listed, sorted(values.items())]).encode()).hexdigest()[:16]


def pem_of_project(option: str, file: Path | None) -> str:
    """Its path in the folder that a build sees; nothing for none. Raises BadSettings, which names the option."""
    if file is None:
        return ""
    path = file.resolve()
    if not (path.is_file() and path.parent in (ROOT, ROOT / "docker") and path.suffix == ".pem"):
        raise BadSettings(f"{option}: expected a .pem file in the project's folder, got {file}. Copy it there.")
    return path.relative_to(ROOT).as_posix()


def bundle_of_project(model: str, *, every_file: bool = False) -> tuple[str, Bundle]:
    """NAME/VERSION of a bundle that lies in the project's models folder and is whole, and the bundle."""
    bundle = read_bundle(find_bundle(model, ROOT / "models"), every_file=every_file)
    if not bundle.folder.is_relative_to(ROOT / "models"):
        raise BadSettings(f"Expected a bundle of the models folder, got {bundle.folder.name} elsewhere. Copy it into models/.")
    return bundle.folder.relative_to(ROOT / "models").as_posix(), bundle
