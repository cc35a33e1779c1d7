"""Architectures by name: torchvision's classifiers and EfficientNet-Lite, each with the input it was trained for."""

from __future__ import annotations

from torch import nn

from model_export.errors import ExportError
from model_export.imagenet import LITE_MEAN, LITE_STD, is_published, published
from model_export.weights import load_state, read_state, strip_prefixes
from shutterless.manifests import InputSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_SIZES = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


def architecture_names() -> list[str]:
    """Every name that `build` takes."""
    from torchvision import models

    return [*LITE_SIZES, *models.list_models(module=models)]


def build(arch: str, n_labels: int, side: int) -> nn.Module:
    """The network with fresh weights: pixels float (N, 3, side, side), normalised -> logits (N, n_labels)."""
    if arch in LITE_SIZES:
        if side % 32:
            raise ExportError(f"{arch} takes sides that are multiples of 32, got {side}. Choose --size 64, 96, 128...")
        from efficientnet_lite_pytorch import EfficientNet

        return fold_padding(EfficientNet.from_name(arch, num_classes=n_labels, image_size=side))
    from torchvision import models

    if arch not in models.list_models(module=models):
        raise ExportError(f"No architecture is called {arch!r}. Choose one of torchvision's classifiers (resnet18, "
                          f"resnet50, mobilenet_v3_small, ...) or {', '.join(LITE_SIZES)}.")
    return models.get_model(arch, weights=None, num_classes=n_labels)


def default_input(arch: str, size: int | None = None) -> InputSpec:
    """The input that the architecture's ImageNet weights expect, squashed to `size` pixels (default: its own)."""
    lite = arch in LITE_SIZES
    return InputSpec(size=size or LITE_SIZES.get(arch, 224), resize="squash", mean=LITE_MEAN if lite else IMAGENET_MEAN,
                     std=LITE_STD if lite else IMAGENET_STD, interpolation="bilinear")


def start_from(model: nn.Module, arch: str, weights: str) -> list[str]:
    """Load `weights` for fine-tuning: a file, or published ones ("imagenet", "DEFAULT", "IMAGENET1K_V2"). Returns the keys
    that keep their fresh values.

    Only the last layer may differ, since the labels are new; any other key that is missing, unknown or of another shape
    is refused.
    """
    state = published(arch, weights).state if is_published(weights) else read_state(weights)
    own = model.state_dict()
    state = strip_prefixes(state, own)
    head = {key for key in list(own)[-2:] if key in state and state[key].shape != own[key].shape}
    load_state(model, state | {key: own[key] for key in head}, source=weights)
    return sorted(head)


def fold_padding(model: nn.Module) -> nn.Module:
    """Let each convolution pad for itself where its "SAME" padding is symmetric: the same values, a tenth faster."""
    for layer in model.modules():
        padding = getattr(layer, "static_padding", None)
        if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            layer.padding = (padding.padding[0], padding.padding[0])  # type: ignore[assignment]
            layer.static_padding = nn.Identity()
    return model
