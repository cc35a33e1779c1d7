"""Write trained weights as an ONNX graph (step 1 of export).

It takes pictures as they are, uint8 (N, rows, columns, RGB), normalises them itself, and answers logits.

examples:
  shutterless graph var/train/land --out land.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.interruption import ended_tidily
from cli.progress import steps
from cli.trained import add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source, and where the graph goes."""
    add_source_options(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.onnx")


@ended_tidily()
def run(arguments: argparse.Namespace) -> int:
    """Write the graph and say what it is."""
    from model_export.graph import opset, write_graph
    from model_export.unfinished import replaced_whole

    with steps() as (step, advance):
        step("reading weights and pictures")
        source = read_source(arguments, advance)
        step("writing ONNX")
        with replaced_whole(arguments.out) as unfinished:
            write_graph(source.model, source.spec, unfinished)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB, opset {opset(arguments.out)}, "
          f"{source.spec.side} px, {len(source.labels)} labels")
    return 0
