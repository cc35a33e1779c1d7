"""Make a verified bundle of trained weights.

The chain: graph (ONNX, pictures in as they are), parity (does it answer like torch?), quantize (int8, calibrated on
training pictures, refused when it costs accuracy), report (accuracy with intervals, confusion, calibration, speed). Each
is a command of its own too. The bundle is whole or not there: models/NAME/VERSION/.

examples:
  shutterless export var/train/land --name land
  shutterless export my.pth --arch resnet18 --labels labels.txt --data photos/ --name roofs
  shutterless export my.pth --arch resnet50 --size 256 --resize "shorter side" --crop 224 --name things
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the bundle's name, and how to quantise."""
    add_source_options(parser)
    parser.add_argument("--name", required=True, help="name of the bundle")
    parser.add_argument("--version", default="1", help="a version never changes (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (default: %(default)s)")
    parser.add_argument("--precision", choices=("int8", "fp32"), help="default: int8 where there are pictures")
    parser.add_argument("--calibration-method", choices=("minmax", "percentile", "entropy"), default="minmax",
                        help="how ranges are chosen (default: %(default)s)")
    parser.add_argument("--optimise", choices=("always", "shared", "never"), default="always",
                        help="add a graph for machines like this one, that opens many times faster: always (an fp32 model then "
                        "holds its weights twice), where it can share the weights (int8), or never (default: %(default)s)")
    parser.add_argument("--outliers", metavar="PICTURES", help="pictures of another kind, to measure in_distribution with")


def run(arguments: argparse.Namespace) -> int:
    """Run the chain, a line a step."""
    from rich.console import Console

    from model_export.export import export

    console = Console(stderr=True)
    with console.status("reading the weights") as status:
        def step(sentence: str) -> None:
            console.print(f"[dim]•[/] {sentence}")
            status.update(sentence)

        folder = export(read_source(arguments), name=arguments.name, version=arguments.version, models=arguments.models,
                        prepared=PREPARED, precision=arguments.precision, method=arguments.calibration_method,
                        outliers=arguments.outliers, when=arguments.optimise, step=step)
    print((folder / "report.md").read_text(encoding="utf-8").split("\n## ")[1].partition("\n")[2].strip())
    print(f"\nbundle: {folder}\nreport: {folder / 'report.html'}\nask it: shutterless predict --model {arguments.name} PICTURE")
    return 0
