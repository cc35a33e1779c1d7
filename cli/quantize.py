"""Make an int8 graph of an fp32 one (step 3 of export).

Static, int8 weights per channel, uint8 activations, calibrated on the source's training pictures. Refused when it loses
more than 0.3 points on pictures that it was not calibrated on.

examples:
  shutterless quantize var/train/land --graph land.onnx --out land-int8.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source (for its pictures), the graph, and where the new one goes."""
    add_source_options(parser)
    parser.add_argument("--graph", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="INT8.onnx")
    parser.add_argument("--calibration-method", choices=("minmax", "percentile", "entropy"), default="minmax",
                        help="how ranges are chosen (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Quantise beside the target, judge, and only then put it there."""
    import numpy as np

    from model_export import runtime
    from model_export.errors import ExportError
    from model_export.export import CALIBRATION_PICTURES, sample, source_pixels
    from model_export.quantize import check_drop, quantize

    source = read_source(arguments)
    if source.pictures is None:
        raise ExportError("int8 needs pictures to calibrate on. Give a folder of class folders: --data FOLDER.")
    pixels = source_pixels(source, PREPARED)
    unfinished = arguments.out.with_suffix(".unfinished")
    try:
        quantize(arguments.graph, unfinished, pixels[sample(source, "train", CALIBRATION_PICTURES)],
                 method=arguments.calibration_method)
        unseen = np.concatenate([source.parts["val"], source.parts["test"]])
        drop = check_drop(runtime.run(arguments.graph, pixels, unseen), runtime.run(unfinished, pixels, unseen),
                          source.pictures.targets[unseen])
        unfinished.replace(arguments.out)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB; loses {drop.points:.2f} points on {drop.n} pictures "
          f"(95 % interval of the paired difference {drop.low:+.2f} to {drop.high:+.2f})")
    return 0
