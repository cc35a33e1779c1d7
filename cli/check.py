"""Verify a bundle: every file against its manifest, then the graph against both.

Length and SHA-256 of each file, the manifest's fields, and whether the graph opens, takes the pictures and gives the
labels that the manifest promises. This is what every door does before it answers, with the files that it opens. Where a
graph was optimised for machines like this one, its answers are compared with those of the portable one, bit for bit.

examples:
  shutterless check eurosat-lite0
  shutterless check models/eurosat-lite0/1
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from cli.environment import read_settings

if TYPE_CHECKING:
    from shutterless.classifier import Classifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `check` takes."""
    parser.add_argument("model", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")


def run(arguments: argparse.Namespace) -> int:
    """Say that all is well, or raise BadBundle with the first thing that differs."""
    from shutterless.bundles import read_bundle
    from shutterless.classifier import Classifier
    from shutterless.opening import default_bundle

    bundle = read_bundle(default_bundle(read_settings(model=arguments.model)).folder, every_file=True)
    classifier = Classifier(bundle)
    classifier.warm_up()
    if bundle.optimised:
        compare_with_portable(classifier)
    for path, file in bundle.manifest.files.items():
        print(f"{path}  {file.bytes:,} bytes  sha256 {file.sha256}{'  opened here' if path in bundle.needed else ''}")
    print(f"{bundle.manifest.name}/{bundle.manifest.version} is whole, and answers. Its digest: {bundle.sha256}")
    return 0


def compare_with_portable(classifier: Classifier) -> None:
    """Ask both graphs about noise. Raises BadBundle when an answer differs in a single bit."""
    import numpy as np

    from shutterless.bundles import as_portable
    from shutterless.classifier import Classifier
    from shutterless.errors import BadBundle

    side = classifier.manifest.input.side
    noise = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    if not np.array_equal(classifier.classify(noise), Classifier(as_portable(classifier.bundle)).classify(noise)):
        raise BadBundle(f"{classifier.bundle.graph()[0]}: expected the answers of model.onnx, bit for bit, got others. Do not "
                        "serve it on this machine; export the bundle again here.")
