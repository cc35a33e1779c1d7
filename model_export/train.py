"""Step 0: labelled pictures -> weights.pth and training.json. Stops and resumes between epochs without a difference."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from model_export import metrics, plots
from model_export.architectures import build, default_input, start_from
from model_export.augment import augment
from model_export.datasets import Pictures, find_pictures, names_digest, prepare, split
from model_export.errors import ExportError
from model_export.report import Section, accuracy_sections, percent
from model_export.report import write as write_report
from model_export.teacher import Teacher
from model_export.unfinished import replaced_whole
from shutterless.manifests import InputSpec

Pixels = NDArray[np.uint8]
NORM_PICTURES = 2048


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that decides what comes out. `size` in pixels, `val` and `test` as shares of the pictures; `teacher` is the
    folder of a bundle with the same labels, to learn from its answers as well."""

    data: str
    arch: str = "efficientnet-lite0"
    weights: str | None = "imagenet"
    size: int = 64
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    averaging: float = 0.998
    upright: bool = False
    bfloat16: bool = False
    teacher: str | None = None
    val: float = 0.1
    test: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows: a step of `steps` in `epoch`, mean loss of the epoch so far, last accuracy on val."""

    epoch: int
    step: int
    steps: int
    loss: float
    val_accuracy: float | None


@dataclass
class _State:
    """What a checkpoint holds."""

    model: nn.Module
    averaged: AveragedModel
    optimizer: torch.optim.Optimizer
    epoch: int
    history: list[dict[str, float]]


def train(training: Training, folder: Path, prepared: Path,
          report: Callable[[Progress], object] = lambda p: None,
          preparing: Callable[[int, int], object] = lambda done, n: None) -> dict[str, Any]:
    """Train into `folder`, or go on where an earlier call with the same settings stopped.

    Writes `checkpoint.pth` after every epoch, at the end `weights.pth` (averaged weights) and `training.json`, whose
    content is returned. Raises ExportError when `folder` holds a training with other settings.
    """
    pictures = find_pictures(training.data)
    parts = split(pictures, seed=training.seed, val=training.val, test=training.test)
    spec = default_input(training.arch, training.size)
    pixels = prepare(pictures, spec, prepared, lambda n: preparing(n, len(pictures.names)))
    teacher = Teacher(training.teacher, pictures.labels) if training.teacher else None
    state = _start(training, spec, len(pictures.labels), folder)
    steps = len(parts["train"]) // training.batch
    if steps == 0:
        raise ExportError(f"{len(parts['train'])} pictures to train on do not fill one batch of {training.batch}. "
                          "Give more pictures or a smaller --batch.")
    while state.epoch < training.epochs:
        _epoch(training, spec, state, teacher, pixels, pictures.targets, parts["train"], steps, report)
        _estimate_norms(training, spec, state, pixels, parts["train"])
        logits = predict(state.averaged.module, pixels, parts["val"], spec)
        state.history[-1]["val_accuracy"] = metrics.accuracy(logits, pictures.targets[parts["val"]]).value
        state.epoch += 1
        _save(state, training, folder)
    return _finish(training, spec, state, pictures, parts, pixels, folder)


def predict(model: nn.Module, pixels: Pixels, indices: NDArray[np.int64], spec: InputSpec) -> NDArray[np.float32]:
    """Logits float32 (len(indices), labels) of pixels uint8 (N, side, side, 3), in eval mode."""
    model.eval()
    with torch.inference_mode():
        batches = [model(normalise(to_tensor(pixels[part]), spec)).float().numpy()
                   for part in np.array_split(indices, math.ceil(len(indices) / 128))]
    return np.concatenate(batches)


def to_tensor(pixels: Pixels) -> Tensor:
    """uint8 (N, side, side, 3) -> float (N, 3, side, side) in 0..1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div(255)


def normalise(pixels: Tensor, spec: InputSpec) -> Tensor:
    """float (N, 3, side, side) in 0..1 -> what the network was trained on."""
    mean, std = torch.tensor(spec.mean).reshape(3, 1, 1), torch.tensor(spec.std).reshape(3, 1, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def _start(training: Training, spec: InputSpec, n_labels: int, folder: Path) -> _State:
    torch.manual_seed(training.seed)
    model = build(training.arch, n_labels, spec.side)
    if training.weights:
        start_from(model, training.arch, training.weights)
    model = model.to(memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(training.averaging))
    state = _State(model, averaged, _optimizer(model, training), 0, [])
    checkpoint = folder / "checkpoint.pth"
    if checkpoint.exists():
        _resume(state, training, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    return state


def _optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); biases and norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": training.weight_decay},
                              {"params": vectors, "weight_decay": 0.0}], lr=training.learning_rate, fused=True)


def _resume(state: _State, training: Training, checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    differing = sorted(k for k, v in asdict(training).items() if saved["training"].get(k) != v)
    if differing:
        raise ExportError(f"{checkpoint.parent} holds a training with other settings ({', '.join(differing)}). "
                          "Give the same settings to go on, or another --out to begin.")
    state.model.load_state_dict(saved["model"])
    state.averaged.load_state_dict(saved["averaged"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.epoch, state.history = saved["epoch"], saved["history"]


def _save(state: _State, training: Training, folder: Path) -> None:
    content = {"model": state.model.state_dict(), "averaged": state.averaged.state_dict(),
               "optimizer": state.optimizer.state_dict(), "epoch": state.epoch, "history": state.history,
               "training": asdict(training)}
    with replaced_whole(folder / "checkpoint.pth") as unfinished:
        torch.save(content, unfinished)


def _epoch(training: Training, spec: InputSpec, state: _State, teacher: Teacher | None, pixels: Pixels,
           targets: NDArray[np.int64], indices: NDArray[np.int64], steps: int,
           report: Callable[[Progress], object]) -> None:
    """One pass in an order that only seed and epoch decide, so that a resumed training is the same training."""
    torch.manual_seed(training.seed * 100_003 + state.epoch)  # dropout, stochastic depth
    generator = torch.Generator().manual_seed(training.seed * 100_003 + state.epoch)
    order = indices[torch.randperm(len(indices), generator=generator).numpy()]
    last = state.history[-1]["val_accuracy"] if state.history else None
    state.model.train()
    begun, total = time.monotonic(), 0.0
    for step in range(steps):
        _set_rate(state.optimizer, training, (state.epoch * steps + step) / (training.epochs * steps))
        chosen = np.sort(order[step * training.batch:(step + 1) * training.batch])
        views = augment(to_tensor(pixels[chosen]), generator, upright=training.upright)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
            logits = state.model(normalise(views, spec)).float()
        loss = F.cross_entropy(logits, torch.from_numpy(targets[chosen]), label_smoothing=training.label_smoothing)
        if teacher:
            loss = teacher.blend(loss, logits, views)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        state.averaged.update_parameters(state.model)
        total += loss.item()
        report(Progress(state.epoch, step + 1, steps, total / (step + 1), last))
    state.history.append({"loss": total / steps, "seconds": round(time.monotonic() - begun, 1)})


def _estimate_norms(training: Training, spec: InputSpec, state: _State, pixels: Pixels, indices: NDArray[np.int64]) -> None:
    """Batch norm's statistics for the averaged weights. The average of the statistics is not that of the weights: a ResNet50
    from scratch had 38 % with it, after four epochs, and 87 % with its own."""
    chosen = np.random.default_rng(state.epoch).permutation(indices)[:NORM_PICTURES]
    batches = np.array_split(chosen, math.ceil(len(chosen) / training.batch))
    with torch.autocast("cpu", torch.bfloat16, enabled=training.bfloat16):
        update_bn((normalise(to_tensor(pixels[np.sort(part)]), spec) for part in batches), state.averaged.module)


def _set_rate(optimizer: torch.optim.Optimizer, training: Training, done: float, warm_up: float = 0.08) -> None:
    """Linear warm-up, then half a cosine to zero; `done` in 0..1."""
    rise = done / warm_up
    fall = 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * (rise if rise < 1 else fall)


def _finish(training: Training, spec: InputSpec, state: _State, pictures: Pictures,
            parts: dict[str, NDArray[np.int64]], pixels: Pixels, folder: Path) -> dict[str, Any]:
    model = state.averaged.module
    with replaced_whole(folder / "weights.pth") as unfinished:
        torch.save(model.state_dict(), unfinished)
    targets = pictures.targets
    val, test = (predict(model, pixels, parts[name], spec) for name in ("val", "test"))
    on_test = metrics.accuracy(test, targets[parts["test"]])
    result = {
        "training": asdict(training), "labels": list(pictures.labels), "input": asdict(spec),
        "split": {name: {"n": len(part), "names_sha256": names_digest(pictures.subset(part))}
                  for name, part in parts.items()},
        "history": state.history, "test_accuracy": asdict(on_test),
    }
    temperature = metrics.fit_temperature(val, targets[parts["val"]])
    write_report(folder, f"{training.arch} on {pictures.root.name}", [
        Section("In short", f"Top-1 on test pictures, none of them trained on: {percent(on_test)}.",
                plot=plots.history_plot(state.history)),
        *accuracy_sections(test, targets[parts["test"]], pictures.labels, temperature)])
    with replaced_whole(folder / "training.json") as unfinished:  # last: it says that all is there
        unfinished.write_text(json.dumps(result, indent=2) + "\n")
    return result
