"""Verify a bundle: every file against its manifest, then the graph against both.

Length and SHA-256 of each file, the manifest's fields, and whether the graph opens, takes the pictures and gives the
labels that the manifest promises. This is what every door does before it answers.

examples:
  shutterless check eurosat-lite0
  shutterless check models/eurosat-lite0/1
"""

from __future__ import annotations

import argparse

from cli.environment import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `check` takes."""
    parser.add_argument("model", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")


def run(arguments: argparse.Namespace) -> int:
    """Say that all is well, or raise BadBundle with the first thing that differs."""
    from shutterless.classifier import Classifier
    from shutterless.opening import default_bundle

    bundle = default_bundle(read_settings(model=arguments.model))
    Classifier(bundle).warm_up()
    for path, file in bundle.manifest.files.items():
        print(f"{path}  {file.bytes:,} bytes  sha256 {file.sha256}")
    print(f"{bundle.manifest.name}/{bundle.manifest.version} is whole, and answers. Its digest: {bundle.sha256}")
    return 0
