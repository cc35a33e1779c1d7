"""The functions' images as assets: the same sources, build arguments and hash as `shutterless images` has."""

from __future__ import annotations

import os
from dataclasses import dataclass

from aws_cdk import Stack

from infra.sources import AWS_BASE, DATABASE_CA, PLATFORMS, ROOT, arguments_of, recipe_of, source_hash
from infra.stages import Stage
from shutterless.signatures import fingerprint, read_key


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What goes into both images. bundle: NAME/VERSION in models/. base_image: what they stand on. signing_key: a file of the
    project, with the public key that every bundle must be signed with; "" takes unsigned ones too."""

    bundle: str
    base_image: str = AWS_BASE
    signing_key: str = ""

    @property
    def signer(self) -> str:
        """sha256: and the key's fingerprint, or none."""
        return f"sha256:{fingerprint(read_key(ROOT / self.signing_key))}" if self.signing_key else "none"


@dataclass(frozen=True)
class Image:
    """An image in the registry; tag is the hash of its sources."""

    repository: str
    tag: str


def publish_image(stack: Stack, name: str, *, stage: Stage, sources: Sources, outdir: str) -> Image:
    """Have the command line build and push docker/<name>.Dockerfile before `stack` is deployed, unless it was."""
    recipe = recipe_of(name)
    values = arguments_of(recipe, {
        "BASE_IMAGE": sources.base_image, "PLATFORM": PLATFORMS[stage.architecture], "MODEL": sources.bundle,
        "DB_CA": DATABASE_CA if stage.iam_database else "", "SIGNING_KEY": sources.signing_key})
    tag = source_hash(recipe, values)
    placed = stack.synthesizer.add_docker_image_asset(
        source_hash=tag, asset_name=name, directory_name=os.path.relpath(ROOT, outdir),
        docker_file=recipe.relative_to(ROOT).as_posix(), docker_build_args=values, platform=PLATFORMS[stage.architecture])
    return Image(placed.repository_name, str(placed.image_tag or tag))
