"""Train a classifier on labelled pictures.

DATA is a folder with one folder of pictures per class, or a zip of such a folder (EuroSAT's official zip as it is). The
split into train, val and test follows from --seed. A checkpoint is kept after every epoch: the same command goes on
where it was stopped. At the end OUT holds weights.pth, training.json and report.html; `shutterless export OUT` makes a
bundle of it.

examples:
  shutterless train EuroSAT.zip --out var/train/land
  shutterless train photos/ --arch resnet18 --size 224 --epochs 20 --upright --out var/train/roofs
  shutterless train EuroSAT.zip --arch resnet50 --weights IMAGENET1K_V2 --out var/train/land-50
  shutterless train EuroSAT.zip --weights var/train/land/weights.pth --size 96 --out var/train/land-96
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cli.interruption import ended_tidily
from cli.trained import PREPARED

if TYPE_CHECKING:
    from model_export.train import Training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option is a field of Training, whose defaults are the ones that were measured on EuroSAT."""
    parser.add_argument("data", metavar="DATA", help="folder of class folders, or a zip")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, weights and report")
    parser.add_argument("--arch", default="efficientnet-lite0", help="architecture (default: %(default)s)")
    parser.add_argument("--weights", default="imagenet",
                        help="start from: imagenet, none, torchvision's by name (IMAGENET1K_V2, downloaded once), or a file "
                             "(default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of the input (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="its peak (default: %(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.02, help="of matrices (default: %(default)s)")
    parser.add_argument("--label-smoothing", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--averaging", type=float, default=0.998,
                        help="share of the weights' running average that each step keeps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training (default: %(default)s)")
    parser.add_argument("--val", type=float, default=0.1, help="share kept for calibration (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="share kept for the final figures (default: %(default)s)")
    parser.add_argument("--teacher", metavar="BUNDLE", help="folder of a bundle with the same labels to learn from as well")
    parser.add_argument("--upright", action="store_true", help="pictures have a top: mirror them, but never turn them")
    parser.add_argument("--bfloat16", action="store_true", help="faster on processors with AMX or AVX512-BF16, for ResNets")


@ended_tidily()
def run(arguments: argparse.Namespace) -> int:
    """Train, with a bar for preparing and one per epoch."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from model_export.calibration import left_out
    from model_export.train import Progress as Step
    from model_export.train import Training, train

    training = _training(arguments, Training)
    if said := left_out(Path(arguments.data)):
        print(f"{arguments.data}{said}", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               TextColumn("{task.fields[note]}"))
    with Progress(*columns) as bars:
        preparing = bars.add_task("preparing pictures", total=None, note="")
        whole = bars.add_task("training", total=None, note="")

        def prepared(done: int, n: int) -> None:
            bars.update(preparing, advance=done, total=n)

        def stepped(step: Step) -> None:
            accuracy = "" if step.val_accuracy is None else f", val {step.val_accuracy:.2%}"
            bars.update(whole, completed=step.epoch * step.steps + step.step, total=training.epochs * step.steps,
                        note=f"epoch {step.epoch + 1}/{training.epochs}, loss {step.loss:.3f}{accuracy}")

        result = train(training, arguments.out, PREPARED, stepped, prepared)
    found = result["test_accuracy"]
    print(f"top-1 {found['value']:.2%} on {found['n']} test pictures (95 % interval {found['low']:.2%} to {found['high']:.2%})")
    print(f"report: {arguments.out / 'report.html'}")
    return 0


def _training(arguments: argparse.Namespace, kind: type[Training]) -> Training:
    typed = {field.name: getattr(arguments, field.name) for field in fields(kind)}
    return kind(**typed | {"weights": None if arguments.weights == "none" else arguments.weights})
