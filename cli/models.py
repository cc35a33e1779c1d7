"""List the bundles that can answer.

The newest version of each model in the models folder, with what its manifest says. Accuracy is top-1, with its 95 %
interval and the number of pictures that it stands on. Signed: yes or no by SHUTTERLESS_SIGNING_KEY; without that key, a
signature is there (unchecked), or none (no). A broken bundle is named on standard error.

examples:
  shutterless models
  shutterless models --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.environment import read_settings
from cli.tables import print_table
from shutterless.errors import BadBundle, NotFound

if TYPE_CHECKING:
    from shutterless.bundles import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `models` takes."""
    parser.add_argument("--json", action="store_true", help="sha256 and manifest, one JSON object a line, for programs")


def run(arguments: argparse.Namespace) -> int:
    """One row per bundle; 1 when one of them is broken."""
    from shutterless.bundles import list_bundles, read_bundle

    settings = read_settings()
    folders = list_bundles(settings.models_dir)
    if not folders:
        raise NotFound("There is no model bundle in the models folder. Make one with `shutterless export`, or say "
                       "where they are: SHUTTERLESS_MODELS_DIR.")
    bundles = []
    for folder in folders:
        try:
            bundles.append(read_bundle(folder))
        except BadBundle as error:
            print(f"{folder.parent.name}/{folder.name}: {error}", file=sys.stderr)
    print_bundles([(bundle, signed(bundle, settings.signing_key)) for bundle in bundles], as_json=arguments.json)
    return int(len(bundles) < len(folders))


def signed(bundle: Bundle, key: Path | None) -> str:
    """`yes` or `no` by the key; without one, `unchecked` or `no`. Raises BadSettings for a key that is none."""
    from shutterless.signatures import SIGNATURE, check_signature

    if key is None:
        return "unchecked" if (bundle.folder / SIGNATURE).is_file() else "no"
    try:
        check_signature(bundle, key)
    except BadBundle:
        return "no"
    return "yes"


def print_bundles(bundles: list[tuple[Bundle, str]], *, as_json: bool) -> None:
    """A table, or a line of JSON, per bundle and whether it is signed."""
    if as_json:
        for bundle, is_signed in bundles:
            print(json.dumps({"sha256": bundle.sha256, "signed": is_signed, **json.loads(bundle.manifest.to_json())}))
    elif bundles:
        print_table(("name", "version", "task", "precision", "size", "accuracy", "signed", "sha256"),
                    [row(bundle, is_signed) for bundle, is_signed in bundles])


def row(bundle: Bundle, is_signed: str) -> tuple[str, ...]:
    """A line of the table; the digest, shortened, is the one beside every prediction."""
    manifest = bundle.manifest
    size_mb = sum(file.bytes for file in manifest.files.values()) / 1e6
    return (manifest.name, manifest.version, manifest.task, manifest.precision, f"{size_mb:.1f} MB",
            accuracy(manifest.report, manifest.precision), is_signed, bundle.sha256[:12])


def accuracy(report: dict[str, Any], precision: str) -> str:
    """`98.77 % (98.06 to 99.22, n = 1458)`; empty when it was never measured, or not by `shutterless export`."""
    try:
        share = report["accuracy"][precision]
        return f"{share['value']:.2%} ({share['low']:.2%} to {share['high']:.2%}, n = {share['n']})".replace("%", " %")
    except (KeyError, TypeError, ValueError):
        return ""
