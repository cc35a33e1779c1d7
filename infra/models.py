"""A bundle -> its files in the bucket of models, put there by the command line before the functions are deployed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from aws_cdk import FileAssetPackaging, Stack

from infra.registry import MODELS
from shutterless.bundles import MANIFEST, Bundle
from shutterless.signatures import SIGNATURE


def publish_bundle(stack: Stack, bundle: Bundle, *, bucket: str, outdir: str) -> str:
    """Its address for MODEL_URI, with its digest. Keys hold the digest as well, and that of a signature, so that what is there is
    never altered."""
    manifest, signature = bundle.manifest, bundle.folder / SIGNATURE
    digest, signed = bundle.sha256[:16], signature.is_file()
    stamp = f"{digest}-{hashlib.sha256(signature.read_bytes()).hexdigest()[:16]}" if signed else digest
    prefix = f"{MODELS}{stamp}/{manifest.name}/{manifest.version}"
    for path in (*manifest.files, MANIFEST, *([SIGNATURE] if signed else [])):
        # The command line adds a file's suffix to its key: the copy has none, and the key is the name as it is.
        copy = Path("bundle") / stamp / path.replace("/", "-").replace(".", "-")
        (Path(outdir) / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / path, Path(outdir) / copy)
        stack.synthesizer.add_file_asset(
            source_hash=f"{prefix}/{path}", file_name=copy.as_posix(), packaging=FileAssetPackaging.FILE,
            display_name=f"{manifest.name} {path}")
    return f"s3://{bucket}/{prefix}@sha256:{bundle.sha256}"
