"""Make a verified bundle of trained weights.

The chain: graph (ONNX, pictures in as they are), parity (does it answer like torch?), quantize (int8, calibrated on
pictures, refused when it costs accuracy), report (accuracy with intervals, confusion, calibration, speed). Each is a
command of its own too. The bundle is whole or not there: models/NAME/VERSION/.

Without pictures the bundle is fp32. Pictures in folders named like the labels give accuracy, and int8 that loses more
than 0.3 points gives way to fp32, or fails where --precision int8 insists; without labels, int8 is
taken where it names what torch names on 99 % of 32 pictures or more, else the bundle is fp32 and says why.
--precision int8 insists: then it may waver where torch does, as long as torch's own confidences let expect a loss of
at most 0.5 points of accuracy.

A weights file is data: nothing in it is run. Two other sources are programs, and run with your rights: a .pt2 file
(torch.export.load reads parts of it with pickle), and the module of module:function, imported from this folder. Take
them from nobody whom you would not let run a script here.

examples:
  shutterless export var/train/land --name land
  shutterless export my.pth --arch resnet50 --labels labels.txt --calibration folder/ --name roofs
  shutterless export my.ckpt --arch nets:build --size 256 --crop 224 --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
  shutterless export timm.safetensors --arch resnet50 --preprocessing config.json
  shutterless export program.pt2 --labels labels.txt --name things
  shutterless export --arch resnet18 --weights DEFAULT --name resnet18
  shutterless export imagenet-lite0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.environment import read_settings
from cli.interruption import ended_tidily
from cli.progress import steps
from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, the bundle's name, and how to quantise."""
    add_source_options(parser)
    parser.add_argument("--name", help="name of the bundle (default: SOURCE's, else --arch)")
    parser.add_argument("--version", default="1", help="a version never changes (default: %(default)s)")
    parser.add_argument("--models", type=Path, metavar="FOLDER",
                        help="of bundles (default: where all commands look: SHUTTERLESS_MODELS_DIR, else the project's models/)")
    parser.add_argument("--precision", choices=("int8", "fp32"), help="default: int8 where pictures can vouch for it")
    parser.add_argument("--calibration-method", choices=("minmax", "percentile", "entropy"), default="minmax",
                        help="how ranges are chosen (default: %(default)s)")
    parser.add_argument("--optimise", choices=("always", "shared", "never"), default="always",
                        help="add a graph for machines like this one, that opens many times faster: always (an fp32 model then "
                        "holds its weights twice), where it can share the weights (int8), or never (default: %(default)s)")
    parser.add_argument("--outliers", metavar="PICTURES", help="pictures of another kind, to measure in_distribution with")


@ended_tidily()
def run(arguments: argparse.Namespace) -> int:
    """Run the chain, a line and a bar a step."""
    from model_export.export import export

    name = arguments.name or _name(arguments)
    models = arguments.models or read_settings().models_dir
    with steps() as (step, advance):
        step("reading weights and pictures")
        source = read_source(arguments, advance)
        for what, said in source.notes:
            step(f"{what}: {said}")
        folder = export(source, name=name, version=arguments.version, models=models, prepared=PREPARED,
                        precision=arguments.precision, method=arguments.calibration_method, outliers=arguments.outliers,
                        when=arguments.optimise, step=step, advance=advance)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    print((folder / "report.md").read_text(encoding="utf-8").split("\n## ")[1].partition("\n")[2].strip())
    print(f"\nbundle: {folder}\nreport: {folder / 'report.html'}\nask it: shutterless predict --model {folder} PICTURE")
    return 0


def _name(arguments: argparse.Namespace) -> str:
    """`roofs` of roofs.pth or var/train/roofs, `build` of nets:build, `resnet18` of --arch resnet18."""
    told = arguments.source or arguments.arch or ""
    return Path(told).resolve().stem.rpartition(":")[2]
