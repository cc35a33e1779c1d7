"""A bundle -> its files in the bucket of models, put there by the command line before the functions are deployed."""

from __future__ import annotations

import shutil
from pathlib import Path

from aws_cdk import FileAssetPackaging, Stack

from infra.registry import MODELS
from shutterless.bundles import MANIFEST, Bundle


def publish_bundle(stack: Stack, bundle: Bundle, *, bucket: str, outdir: str) -> str:
    """Its address for MODEL_URI, with its digest. Keys hold the digest as well, so that what is there is never altered."""
    manifest = bundle.manifest
    prefix = f"{MODELS}{bundle.sha256[:16]}/{manifest.name}/{manifest.version}"
    for path in (*manifest.files, MANIFEST):
        # The command line adds a file's suffix to its key: the copy has none, and the key is the name as it is.
        copy = Path("bundle") / bundle.sha256[:16] / path.replace("/", "-").replace(".", "-")
        (Path(outdir) / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / path, Path(outdir) / copy)
        stack.synthesizer.add_file_asset(
            source_hash=f"{prefix}/{path}", file_name=copy.as_posix(), packaging=FileAssetPackaging.FILE,
            display_name=f"{manifest.name} {path}")
    return f"s3://{bucket}/{prefix}@sha256:{bundle.sha256}"
