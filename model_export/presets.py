"""How pictures are prepared for a network: typed, as its published weights say, or as a timm config says; never two of them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model_export.errors import ExportError
from shutterless.errors import BadBundle
from shutterless.manifests import INTERPOLATIONS, InputSpec

TIMM_CROP_SHARE = 0.875  # timm's default where a config has no crop_pct


@dataclass(frozen=True)
class Preprocessing:
    """The input, and where it is known from: a wrong guess must be visible."""

    spec: InputSpec
    origin: str

    def __str__(self) -> str:
        spec = self.spec
        resize = {"shorter side": f"shorter side to {spec.size} px, {spec.interpolation}", "none": "no resize",
                  "squash": f"squashed to {spec.size} x {spec.size} px, {spec.interpolation}"}[spec.resize]
        crop = f", centre crop {spec.crop} px" if spec.crop else ""
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (spec.mean, spec.std))
        return f"{resize}{crop}, mean {mean}, std {std} (from {self.origin})"


@dataclass(frozen=True, kw_only=True)
class Typed:
    """The options about preprocessing; None where one was not typed. Sizes in pixels, mean and std of values in 0..1."""

    size: int | None = None
    resize: str | None = None
    crop: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None

    def names(self) -> list[str]:
        """The options that were typed, as they are typed."""
        return [f"--{name}" for name, value in asdict(self).items() if value is not None]


def choose(typed: Typed, preset: str | None, known: Preprocessing, arch: str | None) -> Preprocessing:
    """`preset` (a weights enum or a timm config file) alone; else what was typed, completed by `known`; else `known`.

    A typed size, resize or crop replaces all three of `known`. Raises ExportError when both ways are taken.
    """
    if preset is None:
        return _completed(typed, known) if typed.names() else known
    if typed.names():
        raise ExportError(f"--preprocessing {preset} says it all, and {', '.join(typed.names())} too. Give the one or the "
                          "others.")
    return read_preset(preset, arch)


def read_preset(preset: str, arch: str | None) -> Preprocessing:
    """A torchvision weights enum (`ResNet50_Weights.IMAGENET1K_V2`; its last part is enough beside --arch), or a file."""
    from torchvision import models

    if Path(preset).is_file():
        return from_timm(Path(preset))
    enum, _, member = preset.rpartition(".")
    try:
        if not enum and arch in models.list_models(module=models):
            return from_torchvision(models.get_model_weights(arch)[member])
        return from_torchvision(models.get_weight(preset))
    except (ValueError, KeyError) as error:
        raise ExportError(f"--preprocessing {preset} is neither a file nor one of torchvision's weights. Give a timm "
                          "config.json, or a name such as ResNet50_Weights.IMAGENET1K_V2.") from error


def from_torchvision(weights: Any) -> Preprocessing:
    """What the entry of a weights enum expects; nothing is downloaded."""
    preset = weights.transforms()
    try:
        (crop,), size = preset.crop_size, preset.resize_size
        spec = InputSpec(size=size[0], resize="shorter side" if len(size) == 1 else "squash", crop=crop,
                         mean=tuple(preset.mean), std=tuple(preset.std), interpolation=preset.interpolation.value)
    except (AttributeError, ValueError, BadBundle) as error:
        raise ExportError(f"{weights} is not prepared like a classifier's input. Give the options: --size, --resize, --crop, "
                          "--mean and --std.") from error
    return Preprocessing(spec, str(weights))


def from_timm(file: Path) -> Preprocessing:
    """A timm config: the fields of `pretrained_cfg`, at the top or nested under that name as on the Hugging Face hub.

    Raises ExportError naming the field that is missing or that asks for what serving does not do.
    """
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("pretrained_cfg", config)
        channels, height, width = config["input_size"]
        mean, std = config["mean"], config["std"]
    except KeyError as error:
        raise ExportError(f"{file.name} has no {error.args[0]}. Give a timm config with input_size, mean and std, or the "
                          "options: --size, --crop, --mean and --std.") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{file.name} is not a timm config. Give the config.json that lies beside the weights.") from error
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash") or (channels, height) != (3, width):
        raise ExportError(f"{file.name} asks for crop_mode {mode} and input_size {channels} x {height} x {width}. Expected "
                          "center or squash, and a square of 3 channels: give --size, --resize, --crop, --mean and --std.")
    interpolation = config.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise ExportError(f"{file.name} asks for interpolation {interpolation}. Expected one of {', '.join(INTERPOLATIONS)}.")
    size = math.floor(height / (config.get("crop_pct") or TIMM_CROP_SHARE))
    spec = _checked(size=size, resize="squash" if mode == "squash" else "shorter side", crop=height, mean=mean, std=std,
                    interpolation=interpolation)
    return Preprocessing(spec, f"{file.name}, a timm config")


def _completed(typed: Typed, known: Preprocessing) -> Preprocessing:
    if (typed.mean is None) != (typed.std is None):
        raise ExportError("--mean and --std belong together: with one of them, the other would be a guess. Give both.")
    base = known.spec
    size, resize, crop = base.size, base.resize, base.crop
    if any(option is not None for option in (typed.size, typed.resize, typed.crop)):
        size = base.side if typed.size is None else typed.size
        resize = typed.resize or ("squash" if typed.crop is None else "shorter side")
        crop = size if typed.crop is None and resize != "squash" else typed.crop
    if resize != "none" and crop and crop > size:
        raise ExportError(f"--crop {crop} is larger than the {size} px that pictures are resized to, and would add a black "
                          "border. Give a smaller --crop or a larger --size.")
    spec = _checked(size=size, resize=resize, crop=crop, mean=typed.mean or base.mean, std=typed.std or base.std,
                    interpolation=typed.interpolation or base.interpolation)
    rest = "" if typed.mean and typed.interpolation and (typed.size or typed.resize) else f", the rest from {known.origin}"
    return Preprocessing(spec, f"{', '.join(typed.names())}{rest}")


def _checked(**fields: Any) -> InputSpec:
    try:
        return InputSpec(**fields)
    except BadBundle as error:
        said = str(error).removeprefix("manifest.json: input.").partition(". Correct it")[0]
        raise ExportError(f"The preprocessing does not fit. {said}. Correct it.") from error
