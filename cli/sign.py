"""Sign a bundle, so that doors can tell it from others.

Writes model.sig into the bundle's folder, in the format of OpenSSF's model-signing, with an elliptic-curve key (P-256,
P-384 or P-521) from a file. Signed are the manifest and the files that it lists; what else lies in the folder, like the
report card, is left out. The password of a key that has one is asked for, or read from standard input. A door that is
given the public half (SHUTTERLESS_SIGNING_KEY=public.pem) refuses every bundle that is not signed with this key.

examples:
  shutterless sign roofs --key private.pem
  shutterless sign models/roofs/2 --key private.pem

The two halves of a key, and the same check with OpenSSF's own tool:
  openssl ecparam -name prime256v1 -genkey -noout -out private.pem
  openssl pkey -in private.pem -pubout -out public.pem
  model_signing verify key models/roofs/2 --signature models/roofs/2/model.sig --public_key public.pem
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cli.environment import bundle_folder, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle and the key."""
    parser.add_argument("bundle", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")
    parser.add_argument("--key", required=True, type=Path, metavar="FILE", help="the private key, PEM")


def run(arguments: argparse.Namespace) -> int:
    """Check the bundle, then sign it."""
    from model_export.sign import sign
    from shutterless.bundles import read_bundle

    bundle = read_bundle(bundle_folder(read_settings(model=arguments.bundle)), every_file=True)
    signature = sign(bundle, arguments.key, ask_password)
    print(f"{bundle.manifest.name}/{bundle.manifest.version} is signed: {signature}")
    return 0


def ask_password() -> str:
    """From a person, unseen; from a pipe, its first line."""
    from getpass import getpass

    return getpass("password of the key: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
