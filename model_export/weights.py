"""Trained weights from a file, without ever running code from it; every key must match."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model_export.errors import ExportError

State = dict[str, torch.Tensor]
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "weights")  # where trainers put the state dict
# What trainers keep beside the weights; none of these does anything when it is read. Names of other versions stand beside.
NUMPY_SCALAR: Callable[..., object] = np.float64().__reduce__()[0]  # type: ignore[assignment]
HARMLESS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, (pathlib.PosixPath, "pathlib._local.PosixPath"),
    np.dtype, NUMPY_SCALAR, (NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool"))]
SAVE = "Save the weights alone: torch.save(model.state_dict(), path)."


def read_state(path: str | Path) -> State:
    """The state dict in a `.pth`, `.pt`, `.ckpt` (Lightning) or `.safetensors` file.

    Raises ExportError when the file is missing, is not such a file, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"There is no weights file {path}. Give the path of a .pth, .pt, .ckpt or .safetensors file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if _is_torchscript(path):
        raise ExportError(f"{path.name} is a TorchScript archive: code with weights in it. {SAVE}")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(f"{path.name} holds {_foreign(str(error))}, and reading it would run code from it. {SAVE}") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path.name} is not a whole torch file. Copy it again and compare its size.") from error
    return _state_in(content, path.name)


def file_digest(path: Path) -> str:
    """sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _foreign(refusal: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", refusal)
    return f"a {named[1]} beside tensors" if named else "more than tensors (or is not a torch file)"


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ExportError(f"{path.name} is not a whole safetensors file. Copy it again and compare its size.") from error


def _state_in(content: object, name: str) -> State:
    while isinstance(content, dict):
        if content and all(isinstance(value, torch.Tensor) for value in content.values()):
            return {str(key): value for key, value in content.items()}
        inner = next((content[key] for key in CONTAINERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    raise ExportError(f"{name} holds no state dict (looked for tensors, and under {', '.join(CONTAINERS)}). {SAVE}")


def without(state: State, prefixes: Sequence[str]) -> State:
    """The state without the keys that begin with one of `prefixes`. Raises ExportError where one of them begins none."""
    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in state):
            raise ExportError(f"--without {prefix}: no key of the weights begins so. They are {_some(sorted(state))}.")
    return {key: value for key, value in state.items() if not key.startswith(tuple(prefixes))} if prefixes else state


def load_state(model: nn.Module, state: State, source: str) -> None:
    """Load every key or none. Raises ExportError naming what is missing, unknown or of another shape."""
    own = model.state_dict()
    state = strip_prefixes(state, own)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # bookkeeping of batch norm
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unknown or differing:
        shapes = [f"{key}: expected {tuple(own[key].shape)}, got {tuple(state[key].shape)}" for key in differing]
        raise ExportError(f"The weights {Path(source).name} are not of this architecture. Missing: {_some(missing)}; "
                          f"unknown: {_some(unknown)}; other shape: {_some(shapes)}. "
                          + (_renaming({key: own[key].shape for key in missing}, {key: state[key].shape for key in unknown})
                             if missing and not differing else "")
                          + _remedy(missing, unknown, [(own[key].shape, state[key].shape) for key in differing]))
    model.load_state_dict(own | state, strict=True)


def _renaming(missing: dict[str, torch.Size], unknown: dict[str, torch.Size]) -> str:
    """What to do where each unknown key may be a missing one under another name; else nothing."""
    if sorted(missing.values()) != sorted(unknown.values()):
        return ""
    old, shape = next(iter(unknown.items()))
    new = next(key for key, wanted in missing.items() if wanted == shape)
    return (f"{old} has the shape of {new}: if it was renamed, give it that name, state[{new!r}] = state.pop({old!r}), and save "
            "the weights again. Otherwise: ")


def _remedy(missing: list[str], unknown: list[str], shapes: list[tuple[torch.Size, torch.Size]]) -> str:
    if unknown and not missing and not shapes:
        return ("If these keys are no part of the network (a loss, a metric), leave them out when you save it, or export with "
                f"--without {_beginning(unknown[0])}")
    if any(len(own) == len(got) == 4 and own[1] == 3 != got[1] and own[0] == got[0] for own, got in shapes):
        return "They take pictures of another number of channels than 3, red, green and blue: train on RGB pictures."
    return "Give the --arch they were trained with and as many labels as they have."


def strip_prefixes(state: State, own: State) -> State:
    """Take off what DataParallel, Lightning, torch.compile or a class put before the network's keys (`module.`, `model.`).

    It is the beginning after which most keys, and more than half of `own`, are the network's. Keys without it, such as
    those of a loss, stay as they are, so that they are named when they do not fit.
    """
    beginnings = Counter(key[:len(key) - len(rest)] for key in state for rest in _endings(key) if rest in own)
    prefix, n = beginnings.most_common(1)[0] if beginnings else ("", 0)
    if not prefix or n <= len(own) / 2:
        return state
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
    return inside if not outside else state if inside.keys() & outside.keys() else inside | outside


def _endings(key: str) -> list[str]:
    """`a.b.c` -> `a.b.c`, `b.c`, `c`."""
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _beginning(key: str) -> str:
    return f"{key.split('.')[0]}." if "." in key else key


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
