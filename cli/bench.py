"""Measure what a model costs on this machine.

`bench model`: how long its session takes to open (plain, and as the doors do it), and the median of one run by size, batch
and threads, beside plain onnxruntime and, where torch is installed, torch eager. All engines take turns. The plot goes to
var/bench/ or to --out, as PNG or SVG. Make the machine quiet first: nothing else should run.

examples:
  shutterless bench model eurosat-lite0
  shutterless bench model roofs --sizes 64 224 --batches 1 --threads 1 --out roofs.png
  shutterless bench model eurosat-lite0 --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.environment import bundle_folder, read_settings
from cli.tables import print_table
from shutterless.errors import BadRequest

if TYPE_CHECKING:
    from shutterless.manifests import Manifest

LARGEST = {"sizes": 4096, "batches": 1024, "threads": 1024, "runs": 1_000_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, of which bundle, and how."""
    parser.add_argument("what", choices=("model",), help="model: a bundle alone, without a server")
    parser.add_argument("model", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="PX", help="sides of the pictures (default: the model's own)")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", default=[1, 8], help="pictures in a run (default: 1 8)")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help="default: 1, and one per CPU")
    parser.add_argument("--runs", type=int, default=100, metavar="N",
                        help="of each engine, in fives; fewer where they take long (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the report as one line of JSON, instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE.png|FILE.svg", help="where the plot goes")


def run(arguments: argparse.Namespace) -> int:
    """Measure, draw, print."""
    from rich.console import Console

    from benchmarks.model import gains_of_int8, measure, ratios
    from shutterless.bundles import read_bundle
    from shutterless.opening import open_bundle

    if arguments.out and arguments.out.suffix not in (".png", ".svg"):
        raise BadRequest(f"--out: expected a file .png or .svg, got {arguments.out.name}. Give another name.")
    settings = read_settings(model=arguments.model)
    bundle = read_bundle(open_bundle(settings, bundle_folder(settings)).folder, every_file=True)
    plan = read_plan(arguments, bundle.manifest)
    with Console(stderr=True).status("measuring") as status:
        report = measure(bundle, plan, step=status.update)
    report |= {"ratios": ratios(report), "gains_of_int8": gains_of_int8(report)}
    manifest = bundle.manifest
    drawn = draw_plot(report, arguments.out or Path(f"var/bench/model-{manifest.name}-{manifest.version}.svg"))
    if arguments.json:
        print(json.dumps(report))
    else:
        print_report(report, drawn)
    return 0


def read_plan(arguments: argparse.Namespace, manifest: Manifest) -> Any:
    """What to measure. Raises BadRequest for a number that makes no sense."""
    from benchmarks.model import Plan

    for name, largest in LARGEST.items():
        typed = getattr(arguments, name)
        for value in typed if isinstance(typed, list) else [1 if typed is None else typed]:
            if not 1 <= value <= largest:
                raise BadRequest(f"--{name}: expected a number from 1 to {largest}, got {value}. Give another.")
    plan = Plan(sides=tuple(arguments.sizes or [manifest.input.side]), batches=tuple(arguments.batches), runs=arguments.runs)
    return plan if arguments.threads is None else type(plan)(**vars(plan) | {"threads": tuple(arguments.threads)})


def draw_plot(report: dict[str, Any], path: Path) -> str:
    """Draw it; what to say of it."""
    from benchmarks.model import draw

    try:
        draw(report, path)
    except ModuleNotFoundError:
        return "no plot: matplotlib is not installed (make install-export)"
    return f"plot: {path}"


def print_report(report: dict[str, Any], drawn: str) -> None:
    """Two tables, the ratios, and what could not be measured and why."""
    from benchmarks.model import engines_of

    model, host = report["model"], report["machine"]
    print(f"{model['name']}/{model['version']}, {model['precision']}, opens {model['graph']}")
    print(f"{host['cpu']}, {host['cpus']} CPUs, load {host['load_1m']:.1f}, onnxruntime {report['onnxruntime']}")
    print_table(("session open, median", "CPU ms", "wall ms", "n"),
                [(way["way"], f"{way['cpu_ms']:.1f}", f"{way['wall_ms']:.1f}", str(way["n"])) for way in report["open"]])
    engines = engines_of(report)
    print_table(("side", "batch", "threads", *(f"{engine}, ms" for engine in engines)),
                [(f"{row['side']} px", str(row["batch"]), str(row["threads"]),
                  *(f"{row['p50_ms'][engine]:.2f}" if engine in row["p50_ms"] else "" for engine in engines))
                 for row in report["run"]])
    for engine, reason in report["missing"].items():
        print(f"not measured: {engine} ({reason})")
    faster = {name: value for name, value in report["ratios"].items() if name != "open"}
    print(f"It opens {report['ratios']['open']:.1f} times as fast as plain, by CPU time.")
    if faster:
        print("One picture, one thread, it runs " + "; ".join(f"{value:.2f} times as fast as {name}"
                                                             for name, value in faster.items()) + ".")
    if gains := report["gains_of_int8"]:
        print("One picture, one thread, int8 runs " + ", ".join(f"{value:.2f} times as fast as fp32 at {side} px"
                                                                 for side, value in gains.items()) + ".")
    print(drawn)
