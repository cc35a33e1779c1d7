"""How every door opens a bundle: found, whole and, where the settings name a key, signed."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from shutterless.bundles import Bundle, find_bundle, read_bundle
from shutterless.errors import BadSettings
from shutterless.settings import Settings
from shutterless.signatures import SIGNATURE, check_signature


def default_bundle(settings: Settings) -> Bundle:
    """The bundle that the settings choose, out of S3 if that is where it lies. Raises as `open_bundle` does, and NotFound;
    Unavailable where S3 does not answer."""
    if settings.model_uri is None or not settings.model_uri.startswith("s3://"):
        return open_bundle(settings, default_folder(settings))
    bundle = _fetched(settings.model_uri, settings.var_dir.resolve() / "models-cache",
                      also=() if settings.signing_key is None else (SIGNATURE,))
    _check_signature(settings, bundle)
    return bundle


def _fetched(uri: str, into: Path, also: tuple[str, ...]) -> Bundle:
    """In Lambda without boto3, which costs a cold start half a second; elsewhere with it, since it knows profiles, an
    instance's role and proxies; and every file, for whoever checks the copy."""
    from shutterless.fetching import fetch_bundle, parse_uri

    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        return fetch_bundle(uri, into, os.environ, also=also)
    from shutterless.aws import S3Objects

    with closing(S3Objects(parse_uri(uri).bucket)) as bucket:
        return fetch_bundle(uri, into, os.environ, also=also, every_file=True, get=bucket.part)


def open_bundle(settings: Settings, folder: Path) -> Bundle:
    """Read the bundle in `folder` and check its digests and, where SHUTTERLESS_SIGNING_KEY is set, its signature.

    Raises BadBundle when it must not be served, BadSettings when the key cannot be used.
    """
    bundle = read_bundle(folder)
    _check_signature(settings, bundle)
    return bundle


def _check_signature(settings: Settings, bundle: Bundle) -> None:
    if settings.signing_key is not None:
        check_signature(bundle, settings.signing_key)


def default_folder(settings: Settings) -> Path:
    """Where the bundle lies that the settings choose, as a full path. Raises NotFound, naming those that are there, and
    BadSettings for one in S3."""
    if settings.model_uri is None:
        return find_bundle(settings.model, settings.models_dir.resolve())
    if settings.model_uri.startswith("s3://"):
        raise BadSettings("Expected a bundle in a folder, got an address in S3. Copy the bundle into a folder first.")
    return Path(settings.model_uri).resolve()
