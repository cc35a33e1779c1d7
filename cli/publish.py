"""Upload a bundle to S3, under a version that never changes.

Publishing again uploads nothing. What is in S3 is read back and compared by digest either way.

examples:
  shutterless publish eurosat-lite0 --to s3://my-models
  shutterless publish roofs/2 --to s3://my-models/vision
"""

from __future__ import annotations

import argparse

from cli.environment import read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle, and the place in S3."""
    parser.add_argument("bundle", metavar="MODEL", help="NAME (its newest version), NAME/VERSION, or a folder")
    parser.add_argument("--to", required=True, metavar="s3://BUCKET[/PREFIX]", help="becomes .../NAME/VERSION/")


def run(arguments: argparse.Namespace) -> int:
    """Verify the bundle here, then publish it."""
    from model_export.publish import publish
    from shutterless.bundles import find_bundle, read_bundle

    bundle = read_bundle(find_bundle(arguments.bundle, read_settings().models_dir), every_file=True)
    published = publish(bundle, arguments.to, step=lambda path, n: print(f"  {path}  {n:,} bytes, digest equal"))
    what = f"{published.uploaded} files uploaded" if published.uploaded else "already there, nothing uploaded"
    print(f"{published.uri}: {what}")
    return 0
