"""How every door opens a bundle: found, whole and, where the settings name a key, signed."""

from __future__ import annotations

from pathlib import Path

from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.settings import Settings


def open_bundle(settings: Settings, folder: Path) -> Bundle:
    """Read the bundle in `folder` and check its digests and, where SHUTTERLESS_SIGNING_KEY is set, its signature.

    Raises BadBundle when it must not be served, BadSettings when the key cannot be used.
    """
    bundle = read_bundle(folder)
    if settings.signing_key is not None:
        from shutterless.signatures import check_signature

        check_signature(bundle, settings.signing_key)
    return bundle


def default_folder(settings: Settings) -> Path:
    """Where the bundle lies that the settings choose, as a full path. Raises NotFound, naming those that are there."""
    if settings.model_uri is None:
        return find_bundle(settings.model, settings.models_dir.resolve())
    return Path(settings.model_uri).resolve()
