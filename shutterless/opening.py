"""How every door opens a bundle: found, whole and, where the settings name a key, signed."""

from __future__ import annotations

from pathlib import Path

from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.settings import Settings


def default_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings choose. Raises what default_folder and open_bundle raise."""
    return open_bundle(settings, default_folder(settings))


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
    """Where the bundle lies that the settings choose, as a full path; one in S3 is fetched into var_dir first.

    Raises NotFound, naming those that are there, and for one in S3 what fetch_bundle raises.
    """
    if settings.model_uri is None:
        return find_bundle(settings.model, settings.models_dir.resolve())
    if settings.model_uri.startswith("s3://"):
        from shutterless.cache import fetch_bundle

        return fetch_bundle(settings.model_uri, settings.var_dir.resolve() / "models-cache")
    return Path(settings.model_uri).resolve()
