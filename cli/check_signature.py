"""Tell whether a bundle is as the owner of a key signed it.

Reads model.sig and every file of the folder, and finds what OpenSSF's `model_signing verify key` finds: a file that is
not as it was signed, that is missing, or that came later. A door looks only at what it reads: the manifest and the files
that it lists.

examples:
  shutterless check-signature roofs --key public.pem
  shutterless check-signature models/roofs/2 --key public.pem
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli.environment import read_settings
from shutterless.errors import BadBundle

if TYPE_CHECKING:
    from shutterless.signatures import Signed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle and the key."""
    parser.add_argument("bundle", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, a folder, or s3://...")
    parser.add_argument("--key", required=True, type=Path, metavar="FILE", help="the public key, PEM")


def run(arguments: argparse.Namespace) -> int:
    """Say that all is as signed, or raise BadBundle with the first thing that differs."""
    from shutterless.opening import default_bundle
    from shutterless.signatures import check_signature

    bundle = default_bundle(replace(read_settings(model=arguments.bundle), signing_key=arguments.key))
    signed = check_signature(bundle, arguments.key)
    beside = compare(bundle.folder, signed)
    for path, sha256 in signed.files.items():
        print(f"{path}  sha256 {sha256}")
    for path in beside:
        print(f"{path}  not signed")
    print(f"{bundle.manifest.name}/{bundle.manifest.version} is as the owner of {arguments.key} signed it.")
    return 0


def compare(folder: Path, signed: Signed) -> list[str]:
    """Files of the folder that the signature left out on purpose. Raises BadBundle when the others are not those signed."""
    from shutterless.signatures import SIGNATURE

    here = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    for path, sha256 in signed.files.items():
        if path not in here:
            raise BadBundle(f"{path}: expected a file, since it was signed, got none. Copy it again, or sign anew.")
        with here[path].open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise BadBundle(f"{path}: expected sha256 {sha256}, as it was signed, got {found}. Copy it again, or sign anew.")
    left_out = [path for path in here if path not in signed.files]
    for path in left_out:
        if not any(Path(path).is_relative_to(ignored) for ignored in signed.ignored):
            raise BadBundle(f"{path}: expected no file that came after signing, got one. Remove it, or sign anew.")
    return [path for path in left_out if path != SIGNATURE]
