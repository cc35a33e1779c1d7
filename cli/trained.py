"""The options that say which trained model a step of the model's way starts from; shared by export and its steps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.errors import BadRequest

if TYPE_CHECKING:
    from model_export.source import Source

PREPARED = Path("var/prepared")


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """SOURCE and what has to be known about it when it is only a weights file."""
    parser.add_argument("source", metavar="SOURCE", type=Path,
                        help="a folder that `shutterless train` finished, or a weights file (.pth, .ckpt, .safetensors)")
    parser.add_argument("--data", metavar="PICTURES", help="labelled pictures: a folder of class folders, or a zip of them")
    group = parser.add_argument_group("when SOURCE is a weights file")
    group.add_argument("--arch", help="its architecture: resnet18, resnet50, efficientnet-lite0, any of torchvision's")
    group.add_argument("--labels", type=Path, metavar="FILE", help="one label a line, in the order of the outputs")
    group.add_argument("--size", type=int, metavar="PX", help="what pictures are resized to (default: the architecture's)")
    group.add_argument("--resize", choices=("squash", "shorter side", "none"), default="squash",
                       help="both sides to --size, the shorter one, or not at all (default: %(default)s)")
    group.add_argument("--crop", type=int, metavar="PX", help="side of the centre crop after it")
    group.add_argument("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="of values in 0..1")
    group.add_argument("--std", type=float, nargs=3, metavar=("R", "G", "B"))


def read_source(arguments: argparse.Namespace) -> Source:
    """The trained model that the options name. Raises ExportError or BadRequest with what to give."""
    from dataclasses import replace

    from model_export.architectures import default_input
    from model_export.source import from_run, from_weights

    if arguments.source.is_dir():
        return from_run(arguments.source, arguments.data)
    if not arguments.arch:
        raise BadRequest(f"{arguments.source} is not a finished training, so its architecture must be told: --arch resnet18.")
    spec = default_input(arguments.arch, arguments.size)
    spec = replace(spec, resize=arguments.resize, crop=arguments.crop, mean=tuple(arguments.mean or spec.mean),
                   std=tuple(arguments.std or spec.std))
    return from_weights(arguments.source, arch=arguments.arch, spec=spec, labels=arguments.labels, data=arguments.data)
