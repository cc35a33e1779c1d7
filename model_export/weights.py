"""Trained weights from a file, without ever running code from it; every key must match."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

from model_export.errors import ExportError

State = dict[str, torch.Tensor]
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "backbone.")  # DataParallel, Lightning and compile, own classes
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "weights")  # where trainers put the state dict


def read_state(path: str | Path) -> State:
    """The state dict in a `.pth`, `.pt`, `.ckpt` (Lightning) or `.safetensors` file.

    Raises ExportError when the file is missing, is not such a file, or would have to run code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ExportError(f"There is no weights file {path}. Give the path of a .pth, .pt, .ckpt or .safetensors file.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(f"{path.name} holds more than tensors (or is not a torch file), and reading it would run code "
                          "from it. Save the weights alone: torch.save(model.state_dict(), path).") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ExportError(f"{path.name} is not a whole torch file. Copy it again and compare its size.") from error
    return _state_in(content, path.name)


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
    raise ExportError(f"{name} holds no state dict (looked for tensors, and under {', '.join(CONTAINERS)}). "
                      "Save the weights alone: torch.save(model.state_dict(), path).")


def load_state(model: nn.Module, state: State, source: str) -> None:
    """Load every key or none. Raises ExportError naming what is missing, unknown or of another shape."""
    own = model.state_dict()
    state = strip_prefixes(state, own)
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # bookkeeping of batch norm
    shapes = [f"{key}: expected {tuple(own[key].shape)}, got {tuple(state[key].shape)}"
              for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unknown or shapes:
        raise ExportError(f"The weights {Path(source).name} are not of this architecture. Missing: {_some(missing)}; "
                          f"unknown: {_some(unknown)}; other shape: {_some(shapes)}. Give the --arch they were trained "
                          "with and as many labels as they have.")
    model.load_state_dict(own | state, strict=True)


def strip_prefixes(state: State, own: State) -> State:
    """Take off what DataParallel, Lightning and torch.compile put before every key, while that brings keys to match."""
    while not state.keys() & own.keys():
        prefix = next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
