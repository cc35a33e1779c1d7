"""Make an int8 graph of an fp32 one (step 3 of export).

Static, int8 weights per channel, uint8 activations, calibrated on the source's training pictures. Refused when it loses
more than 0.3 points on pictures that it was not calibrated on; without labels, when it names other labels than torch.

examples:
  shutterless quantize var/train/land --graph land.onnx --out land-int8.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.interruption import ended_tidily
from cli.progress import steps
from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source (for its pictures), the graph, and where the new one goes."""
    add_source_options(parser)
    parser.add_argument("--graph", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="INT8.onnx")
    parser.add_argument("--calibration-method", choices=("minmax", "percentile", "entropy"), default="minmax",
                        help="how ranges are chosen (default: %(default)s)")


@ended_tidily()
def run(arguments: argparse.Namespace) -> int:
    """Quantise beside the target, judge, and only then put it there."""
    from model_export.errors import ExportError
    from model_export.export import CALIBRATION_PICTURES, judge_pictures, sample, source_pixels
    from model_export.quantize import quantize
    from model_export.unfinished import replaced_whole

    with steps() as (step, advance):
        step("reading weights and pictures")
        source = read_source(arguments, advance)
        if source.pictures is None:
            raise ExportError("int8 needs pictures to calibrate on. Give a folder or zip of them: --calibration FOLDER.")
        pixels = source_pixels(source, PREPARED, advance)
        with replaced_whole(arguments.out) as unfinished:
            step("calibrating")
            quantize(arguments.graph, unfinished, pixels[sample(source, "train", CALIBRATION_PICTURES)],
                     method=arguments.calibration_method, advance=advance)
            step("judging")
            judgement = judge_pictures(source, pixels, arguments.graph, unfinished, insisted=True, advance=advance)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")
    for what, found in judgement.rows:
        print(f"{what}: {found}")
    return 0
