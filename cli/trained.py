"""The options that say which trained model a step of the model's way starts from; shared by export and its steps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.errors import BadRequest

if TYPE_CHECKING:
    from model_export.presets import Typed
    from model_export.source import Source

PREPARED = Path("var/prepared")
OF_NETWORKS = ("arch", "weights", "labels", "calibration", "without", "preprocessing", "size", "resize", "crop", "mean", "std",
               "interpolation")  # what a finished training knows itself


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """SOURCE and what has to be known about it when it is not a finished training."""
    parser.add_argument("source", metavar="SOURCE", nargs="?",
                        help="a folder that `shutterless train` finished; weights (.pth, .pt, .ckpt, .safetensors); a "
                             "torch.export program (.pt2); package.module:function that returns a network with its weights; "
                             "imagenet-lite0")
    parser.add_argument("--data", metavar="PICTURES", help="labelled pictures: a folder of class folders, or a zip of them")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that torch uses (default: all cores)")
    group = parser.add_argument_group("when SOURCE is not a finished training")
    group.add_argument("--arch", help="its architecture: resnet18, resnet50, efficientnet-lite0, any of torchvision's, or "
                                      "package.module:function, which returns an untrained one")
    group.add_argument("--weights", help="instead of SOURCE: a file, or published ones: DEFAULT, IMAGENET1K_V1, ...")
    group.add_argument("--without", action="append", default=[], metavar="BEGINNING",
                       help="leave out the keys that begin so, such as criterion. (may be given several times)")
    group.add_argument("--labels", type=Path, metavar="FILE", help="one label a line, in the order of the outputs")
    group.add_argument("--calibration", metavar="PICTURES",
                       help="pictures of any folder or zip, with or without class folders; broken ones are skipped and named")
    group = parser.add_argument_group("how its pictures are prepared", "either --preprocessing alone, or the others")
    group.add_argument("--preprocessing", metavar="PRESET",
                       help="ResNet50_Weights.IMAGENET1K_V2 or another of torchvision's, or a timm config.json")
    group.add_argument("--size", type=int, metavar="PX", help="what pictures are resized to (default: the architecture's)")
    group.add_argument("--resize", choices=("shorter-side", "squash", "none"), type=lambda word: word.replace(" ", "-"),
                       help="the shorter side to --size, both sides, or not at all (default: squash, with --crop shorter-side)")
    group.add_argument("--crop", type=int, metavar="PX", help="side of the centre crop after it (default: --size)")
    group.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of values in 0..1")
    group.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))
    group.add_argument("--interpolation", choices=("nearest", "bilinear", "bicubic", "lanczos"))


def read_source(arguments: argparse.Namespace, advance: Callable[[int, int], object] = lambda n, total: None) -> Source:
    """The trained model that the options name. Raises ExportError or BadRequest with what to give."""
    from model_export.networks import Wanted, find_network
    from model_export.source import from_network, from_run, read_labels, use_threads

    if arguments.threads is not None:
        use_threads(arguments.threads)
    if arguments.source and Path(arguments.source).is_dir():
        _refuse(arguments)
        return from_run(Path(arguments.source), arguments.data)
    n_labels = len(read_labels(arguments.labels)) if arguments.labels else None
    network = find_network(Wanted(source=arguments.source, arch=arguments.arch, weights=arguments.weights,
                                  without=tuple(arguments.without), typed=_typed(arguments), preset=arguments.preprocessing,
                                  n_labels=n_labels))
    return from_network(network, labels=arguments.labels, data=arguments.data, calibration=arguments.calibration,
                        prepared=PREPARED, advance=advance)


def _refuse(arguments: argparse.Namespace) -> None:
    typed = [f"--{name}" for name in OF_NETWORKS if getattr(arguments, name)]
    if typed:
        raise BadRequest(f"{arguments.source} is a finished training, which knows its network, labels and preprocessing: leave "
                         f"out {', '.join(typed)}. Its pictures can be told by --data.")


def _typed(arguments: argparse.Namespace) -> Typed:
    from model_export.presets import Typed

    return Typed(size=arguments.size, resize=arguments.resize and arguments.resize.replace("-", " "), crop=arguments.crop,
                 mean=arguments.mean and tuple(arguments.mean), std=arguments.std and tuple(arguments.std),
                 interpolation=arguments.interpolation)
