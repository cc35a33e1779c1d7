"""Ask torch and an ONNX graph the same pictures (step 2 of export).

Names first, then shapes, then values. Without pictures it asks about noise.

examples:
  shutterless parity var/train/land --graph land.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.progress import steps
from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, and the graph to compare it with."""
    add_source_options(parser)
    parser.add_argument("--graph", type=Path, required=True, metavar="FILE.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print the largest differences."""
    from model_export.export import PARITY_PICTURES, sample, source_pixels
    from model_export.parity import check_parity
    from model_export.watched import watched

    with steps() as (step, advance):
        step("reading weights and pictures")
        source = read_source(arguments, advance)
        pixels = source_pixels(source, PREPARED, advance)[sample(source, "test", PARITY_PICTURES)]
        step("asking torch and ONNX the same")
        parity = check_parity(source.model, source.spec, arguments.graph, watched(pixels, 2 * len(pixels), advance))
    print(f"top-1 equal on {parity.top1_agreement:.2%} of {parity.n} pictures; largest difference of a logit "
          f"{parity.logits_difference:.1e}, of a confidence {parity.confidence_difference:.1e}")
    return 0
