"""Judge a graph on pictures and write its report card (step 4 of export).

Accuracy with intervals, per-class table, confusion matrix, reliability, speed; as HTML with its plots inside and as
Markdown. With --int8, that graph is judged, and compared with the fp32 one.

examples:
  shutterless report var/train/land --graph land.onnx --int8 land-int8.onnx --out var/report
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cli.progress import steps
from cli.trained import PREPARED, add_source_options, read_source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The source (for its pictures), the graphs, and where the card goes."""
    add_source_options(parser)
    parser.add_argument("--graph", type=Path, required=True, metavar="FP32.onnx")
    parser.add_argument("--int8", type=Path, metavar="INT8.onnx")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--outliers", metavar="PICTURES", help="pictures of another kind, to measure in_distribution with")


def run(arguments: argparse.Namespace) -> int:
    """Judge, and write report.html and report.md."""
    from model_export.errors import ExportError
    from model_export.export import PARITY_PICTURES, judge_pictures, sample, source_pixels, write_card
    from model_export.judge import judge_outliers, judge_speed
    from model_export.parity import check_parity
    from model_export.runtime import Graph
    from model_export.watched import watched

    with steps() as (step, advance):
        step("reading weights and pictures")
        source = read_source(arguments, advance)
        if source.pictures is None:
            raise ExportError("A report needs pictures. Give a folder of class folders, --data FOLDER, or any: --calibration "
                              "FOLDER.")
        pixels, final = source_pixels(source, PREPARED, advance), Graph(arguments.int8 or arguments.graph)
        step("asking torch and ONNX the same")
        few = pixels[sample(source, "test", PARITY_PICTURES)]
        parity = check_parity(source.model, source.spec, arguments.graph, watched(few, 2 * len(few), advance))
        step("judging")
        judgement = judge_pictures(source, pixels, arguments.graph, arguments.int8, advance=advance)
        if arguments.outliers:
            step("asking about pictures of another kind")
            judge_outliers(judgement, source, pixels, final, arguments.outliers, advance)
        step("timing")
        judge_speed(judgement, final.path, final, source.spec.side)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_card(source, arguments.out, final.path.stem, parity, judgement)
    print(f"report: {arguments.out / 'report.html'}")
    return 0
