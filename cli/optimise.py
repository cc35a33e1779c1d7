"""Add graphs that are fast on machines like this one.

onnxruntime's optimisation is done once, now, and kept in the bundle beside the portable graph, for its version and for what
this CPU can do; every other machine goes on with the portable one. A network with convolutions over small maps gets another
graph, for batches. A version never changes, so the bundle becomes a new version, beside the old. Run it on each kind of
machine that is to serve: a bundle may hold graphs for several.

examples:
  shutterless optimise roofs
  shutterless optimise roofs/2 --version 2-graviton
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.environment import bundle_folder, read_settings
from cli.interruption import ended_tidily

if TYPE_CHECKING:
    from shutterless.manifests import BundleFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle, and the version that it becomes."""
    parser.add_argument("model", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")
    parser.add_argument("--version", help="of the bundle with the new graph (default: the next number)")


@ended_tidily()
def run(arguments: argparse.Namespace) -> int:
    """Write the new version, and say what it cost."""
    from model_export.optimise import add
    from shutterless.bundles import read_bundle

    before = read_bundle(bundle_folder(read_settings(model=arguments.model)), every_file=True)
    after = read_bundle(add(before, arguments.version))
    for graph in after.manifest.optimised[len(before.manifest.optimised):]:
        cpu = ", ".join(name if there else f"no {name}" for name, there in graph.cpu.items()) or "any CPU"
        answers = f"answers like {graph.of}, for batches" if graph.batches else f"answers bit for bit like {graph.of}"
        print(f"{graph.graph}: for {graph.system}, {cpu}, onnxruntime {graph.ort}; {answers}")
    more_mb = (_size(after.manifest.files) - _size(before.manifest.files)) / 1e6
    print(f"{after.manifest.name}/{after.manifest.version}: {more_mb:.1f} MB more than version {before.manifest.version}")
    return 0


def _size(files: dict[str, BundleFile]) -> int:
    return sum(file.bytes for file in files.values())
