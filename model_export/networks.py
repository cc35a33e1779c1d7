"""A trained network, whatever it comes as: weights and the name of their architecture, the user's own class, a program."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from model_export.architectures import LITE_SIZES, build, default_input
from model_export.errors import ExportError
from model_export.imagenet import LITE0, LITE0_ARCH, LITE_WEIGHTS_LICENCE, is_published, published
from model_export.presets import Preprocessing, Typed, choose
from model_export.weights import State, file_digest, load_state, read_state, strip_prefixes, without
from shutterless.manifests import InputSpec

Factory = Callable[[int | None], nn.Module]  # number of labels, where it is known -> network with fresh weights
WRAP = ("Wrap it in a class of your own whose forward returns what is expected, and give a function that builds it: "
        "--arch package.module:function.")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network in eval mode: float (N, 3, side, side), normalised -> logits (N, n_outputs). `origin` says where its
    weights are from, `labels` are those that were published with them."""

    model: nn.Module
    arch: str
    n_outputs: int
    preprocessing: Preprocessing
    origin: str
    weights_sha256: str
    labels: tuple[str, ...] | None = None
    licence: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for. `source`: a weights file, a program (.pt2), a `module:function` that brings its weights, or
    "imagenet-lite0"; or None with `weights`: a file or the name of published ones. `arch`: a name or a `module:function`.
    `n_labels`: how many the user listed. `without`: beginnings of keys to leave out."""

    source: str | None = None
    arch: str | None = None
    weights: str | None = None
    without: tuple[str, ...] = ()
    typed: Typed = field(default_factory=Typed)
    preset: str | None = None
    n_labels: int | None = None


def find_network(wanted: Wanted) -> Network:
    """Build it, load every key, and try it. Raises ExportError with what does not fit."""
    source, arch, weights = wanted.source, wanted.arch, wanted.weights
    if source and weights:
        raise ExportError(f"The weights are given twice, as {source} and as --weights {weights}. Leave one out.")
    if source == LITE0 and not Path(source).exists():
        _only(wanted, f"{LITE0} is a whole network")
        arch, weights = LITE0_ARCH, "DEFAULT"
    elif source and is_program(Path(source)):
        _only(wanted, f"{source} is a whole network")
        return _program(Path(source), wanted)
    elif source and _is_function(source) and not Path(source).exists():
        _only(wanted, f"{source} is a whole network")
        return _own(source, wanted)
    if not arch:
        raise ExportError(f"{source or 'These weights'} is not a finished training, so its architecture must be told: --arch "
                          "resnet18, or --arch package.module:function for a class of your own.")
    if weights and is_published(weights):
        return _published(arch, weights, wanted)
    file = source or weights
    if not file:
        raise ExportError("There are no weights. Give a file, or --weights DEFAULT for those that torchvision publishes.")
    return _from_file(arch, Path(file), wanted)


def _only(wanted: Wanted, why: str) -> None:
    given = [f"--{name}" for name in ("arch", "weights", "without") if getattr(wanted, name)]
    if given:
        raise ExportError(f"{why}, so it takes no {' and no '.join(given)}. Leave that out.")


def _published(arch: str, weights: str, wanted: Wanted) -> Network:
    if _is_function(arch):
        raise ExportError(f"Nobody publishes weights for {arch}. Give a file: --weights FILE.")
    found = published(arch, weights)
    preprocessing = choose(wanted.typed, wanted.preset, found.preprocessing, arch)
    model = _loaded(_factory(arch, preprocessing.spec.side), without(found.state, wanted.without), None, found.origin)
    return _tried(model, arch, preprocessing, found.origin, found.sha256, labels=found.labels, licence=found.licence)


def _from_file(arch: str, file: Path, wanted: Wanted) -> Network:
    state = without(read_state(file), wanted.without)
    preprocessing = choose(wanted.typed, wanted.preset, _usual(arch), arch)
    model = _loaded(_factory(arch, preprocessing.spec.side), state, wanted.n_labels, str(file))
    licence = f"started from ImageNet weights under {LITE_WEIGHTS_LICENCE}" if arch in LITE_SIZES else None
    return _tried(model, arch, preprocessing, file.name, file_digest(file), licence=licence)


def _own(function: str, wanted: Wanted) -> Network:
    model = _call(function, wanted.n_labels)
    preprocessing = choose(wanted.typed, wanted.preset, _usual(None), None)
    return _tried(model, function, preprocessing, f"{function}, which brings them", _state_digest(model))


def _usual(arch: str | None, side: int | None = None) -> Preprocessing:
    """What most networks were trained with, when nobody says what this one was."""
    spec = default_input(arch or "resnet18", side)
    return Preprocessing(spec, "a guess: what ImageNet networks usually take")


# Weights into an architecture.

def _factory(arch: str, side: int) -> Factory:
    if _is_function(arch):
        return lambda n_labels: _call(arch, n_labels or 1000)
    return lambda n_labels: build(arch, n_labels or 1000, side)


def _loaded(factory: Factory, state: State, n_labels: int | None, source: str) -> nn.Module:
    """Built with as many outputs as the weights have, which may be other than `n_labels`: who counts labels says so."""
    model = factory(n_labels)
    n_outputs = _n_outputs(model.state_dict(), state)
    if n_outputs is not None and not _same_shapes(model, state):
        model = factory(n_outputs)
    load_state(model, state, source)
    return model


def _same_shapes(model: nn.Module, state: State) -> bool:
    own = model.state_dict()
    return all(own[key].shape == value.shape for key, value in strip_prefixes(state, own).items() if key in own)


def _n_outputs(own: State, state: State) -> int | None:
    """Where layers differ from the network's in their first dimension only, that dimension, if it is one number."""
    pairs = [(own[key], value) for key, value in strip_prefixes(state, own).items() if key in own]
    found = {len(got) for mine, got in pairs if mine.ndim and got.ndim and mine.shape != got.shape
             and mine.shape[1:] == got.shape[1:]}
    return found.pop() if len(found) == 1 else None


# The user's own class.

def _is_function(arch: str) -> bool:
    module, _, function = arch.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _call(arch: str, n_labels: int | None) -> nn.Module:
    """Import from the working folder and call, with num_classes where the function takes it. This runs the user's code."""
    module, _, name = arch.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        what = "" if module.startswith(str(error.name)) else f", which {module} imports"
        raise ExportError(f"There is no module {error.name}{what}. Run this where {module.replace('.', '/')}.py lies, with its "
                          "packages installed.") from error
    except AttributeError as error:
        raise ExportError(f"{module} has no {name}. Name a function or class in it: --arch {module}:build.") from error
    except Exception as error:  # the user's code raises what it likes
        raise ExportError(f"Importing {module} failed: {_where(error)}. Correct it.") from error
    try:
        counts = n_labels is not None and "num_classes" in inspect.signature(function).parameters
        model = function(num_classes=n_labels) if counts else function()
    except Exception as error:  # the user's code again
        raise ExportError(f"{arch} failed: {_where(error)}. It is called with num_classes where it takes that and the number of "
                          "labels is known (--labels), else with nothing.") from error
    if not isinstance(model, nn.Module):
        raise ExportError(f"{arch} returned a {type(model).__name__}, expected a torch.nn.Module. Return the network.")
    return model.float()  # pictures come as float32, and so do logits leave


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    said = (str(error).strip().splitlines() or ["no message"])[0][:200]
    return f"{type(error).__name__}: {said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _state_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# A program that torch.export wrote.

class Program(nn.Module):
    """A program is in the mode that it was exported in, and torch refuses to be asked for another."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def train(self, mode: bool = True) -> Program:
        """Nothing changes."""
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(pixels)


def is_program(file: Path) -> bool:
    """Whether it is what torch.export.save wrote, whatever its suffix."""
    if not zipfile.is_zipfile(file):
        return file.suffix == ".pt2"
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("models/model.json") for name in archive.namelist())


def _program(file: Path, wanted: Wanted) -> Network:
    """Loading it may run code from it: torch reads parts of it with pickle, and builds the rest from what it says."""
    if not file.is_file():
        raise ExportError(f"There is no program {file}. Give the path of what torch.export.save wrote.")
    try:
        program = torch.export.load(str(file))
        module = program.module()
    except Exception as error:  # torch raises whatever its readers do
        raise ExportError(f"{file.name} cannot be loaded as a program of torch {torch.__version__} ({type(error).__name__}). "
                          "Save it again with torch.export.save, in this version.") from error
    _pool_by_name(module)
    side = _side(program, file.name)
    preprocessing = choose(wanted.typed, wanted.preset, _usual(None, side), None)
    if preprocessing.spec.side != side:
        raise ExportError(f"{file.name} takes {side} px, and pictures are prepared to {preprocessing.spec.side} px. Give "
                          f"--size {side}, or --crop {side}.")
    return _tried(Program(module), "torch.export program", preprocessing, file.name, file_digest(file))


def _pool_by_name(module: fx.GraphModule) -> None:
    """Let it pool by the function that a class would call, so that `write_graph` sees it: a program calls what lies behind."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.adaptive_avg_pool2d.default):
        node.target = nn.functional.adaptive_avg_pool2d
    module.recompile()


def _side(program: Any, name: str) -> int:
    """The side of the square that the program takes. Raises ExportError unless it takes (any N, 3, side, side) as floats."""
    inputs = [node.meta["val"] for node in program.graph.nodes
              if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    shapes: list[list[int | str]] = [[d if isinstance(d, int) else "N" for d in value.shape] for value in inputs
                                     if isinstance(value, Tensor)]
    side = shapes[0][-1] if len(shapes) == len(inputs) == 1 and inputs[0].dtype == torch.float32 else None
    if not isinstance(side, int) or shapes[0] != ["N", 3, side, side]:
        got = " and ".join(f"{value.dtype} {shape}" for value, shape in zip(inputs, shapes, strict=False)) or "no tensor"
        raise ExportError(f"{name} takes {got}, expected one torch.float32 ['N', 3, side, side] with N free. Export it again "
                          "with a batch of 2 and dynamic_shapes=({0: torch.export.Dim.DYNAMIC},).")
    return side


# One try.

def _tried(model: nn.Module, arch: str, preprocessing: Preprocessing, origin: str, sha256: str, *,
           labels: tuple[str, ...] | None = None, licence: str | None = None) -> Network:
    model = model.eval()
    n_outputs = count_outputs(model, preprocessing.spec)
    return Network(model=model, arch=arch, n_outputs=n_outputs, preprocessing=preprocessing, origin=origin,
                   weights_sha256=sha256, labels=labels if labels and len(labels) == n_outputs else None, licence=licence)


def count_outputs(model: nn.Module, spec: InputSpec) -> int:
    """Ask it two pictures of noise. Raises ExportError unless it answers logits, one per label and picture."""
    noise = torch.rand(2, 3, spec.side, spec.side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            answer = model(noise)
    except Exception as error:  # a layer's, and layers may be the user's
        first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
        if first is not None and first.in_channels != 3:
            raise ExportError(f"This network takes {first.in_channels} channels, expected 3 (RGB). {WRAP}") from error
        raise ExportError(f"This network cannot take pictures of {spec.side} x {spec.side} px: {_where(error)}. Give the "
                          "--size that it was trained with.") from error
    if not isinstance(answer, Tensor):
        keys = f" with {', '.join(map(str, list(answer)[:5]))}" if isinstance(answer, Mapping) else ""
        raise ExportError(f"This network answers a {type(answer).__name__}{keys}, expected one tensor (N, labels). {WRAP}")
    if answer.ndim != 2 or len(answer) != 2 or answer.shape[1] < 2:
        raise ExportError(f"This network answers {list(answer.shape)} for 2 pictures, expected [2, labels], two labels "
                          f"or more. {WRAP}")
    if not torch.isfinite(answer.float()).all():
        raise ExportError("This network answers NaN or infinity. Its weights are damaged, or its training diverged: take an "
                          "earlier checkpoint.")
    if (answer >= 0).all() and torch.allclose(answer.float().sum(1), torch.ones(2), atol=1e-4):
        raise ExportError(f"This network answers probabilities, expected logits: its last softmax would be applied twice. {WRAP}")
    return int(answer.shape[1])
