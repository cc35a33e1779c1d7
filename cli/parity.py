"""Ask torch and an ONNX graph the same pictures (step 2 of export).

Names first, then shapes, then values. Without pictures it asks about noise.

examples:
  shutterless parity var/train/land --graph land.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, and the graph to compare it with."""
    add_source_options(parser)
    parser.add_argument("--graph", type=Path, required=True, metavar="FILE.onnx")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print the largest differences."""
    from model_export.export import PARITY_PICTURES, sample, source_pixels
    from model_export.parity import check_parity

    source = read_source(arguments)
    pixels = source_pixels(source, PREPARED)[sample(source, "test", PARITY_PICTURES)]
    parity = check_parity(source.model, source.spec, arguments.graph, pixels)
    print(f"top-1 equal on {parity.top1_agreement:.2%} of {parity.n} pictures; largest difference of a logit "
          f"{parity.logits_difference:.1e}, of a confidence {parity.confidence_difference:.1e}")
    return 0
