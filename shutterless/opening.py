"""How every door opens a bundle: found, whole and, where the settings name a key, signed."""

from __future__ import annotations

import os
from pathlib import Path

from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.settings import Settings


def default_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings choose, out of S3 if that is where it lies. Raises as `open_bundle` does, and NotFound;
    Unavailable where S3 does not answer."""
    if settings.model_uri is None or not settings.model_uri.startswith("s3://"):
        return open_bundle(settings, default_folder(settings))
    from shutterless.fetching import fetch_bundle

    also = () if settings.signing_key is None else ("model.sig",)
    bundle = fetch_bundle(settings.model_uri, settings.var_dir / "models", os.environ, also=also)
    _check_signature(settings, bundle)
    return bundle


def open_bundle(settings: Settings, folder: Path) -> Bundle:
    """Read the bundle in `folder` and check its digests and, where SHUTTERLESS_SIGNING_KEY is set, its signature.

    Raises BadBundle when it must not be served, BadSettings when the key cannot be used.
    """
    bundle = read_bundle(folder)
    _check_signature(settings, bundle)
    return bundle


def _check_signature(settings: Settings, bundle: Bundle) -> None:
    if settings.signing_key is not None:
        from shutterless.signatures import check_signature

        check_signature(bundle, settings.signing_key)


def default_folder(settings: Settings) -> Path:
    """Where the bundle lies that the settings choose, as a full path. Raises NotFound, naming those that are there."""
    if settings.model_uri is None:
        return find_bundle(settings.model, settings.models_dir.resolve())
    return Path(settings.model_uri).resolve()
