"""After export: a bundle -> `model.sig`, in OpenSSF's format and by OpenSSF's own model-signing.

Signed are the manifest and the files that it lists: what every copy has, wherever a door reads it. What else lies in the
folder, a report card, is left out, and the signature says so: the reference tool agrees in each copy without being told.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import model_signing
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from model_export.errors import ExportError
from model_export.unfinished import replaced_whole
from shutterless.bundles import MANIFEST, Bundle
from shutterless.signatures import CURVES, SIGNATURE


def sign(bundle: Bundle, key: Path, ask_password: Callable[[], str]) -> Path:
    """Write the bundle's signature with the private key in the PEM file `key`; one that is there is replaced.

    The bundle comes from read_bundle: what is broken is not signed. `ask_password` is called for a key that has one.
    Raises ExportError when the key does not fit or the folder cannot be signed.
    """
    password = check_key(key, ask_password)
    signed = {MANIFEST, *bundle.manifest.files}
    files = (path.relative_to(bundle.folder) for path in bundle.folder.rglob("*") if not path.is_dir())
    others = {path for path in files if path.as_posix() not in signed}
    signer = model_signing.signing.Config().use_elliptic_key_signer(
        private_key=key, password=password)  # type: ignore[arg-type]  # it says str, and hands it on to what takes bytes
    try:
        with replaced_whole(bundle.folder / SIGNATURE) as unfinished:
            ignored = sorted({Path(SIGNATURE), Path(unfinished.name)} | others)
            hashing = model_signing.hashing.Config().set_ignored_paths(paths=ignored)
            signer.set_hashing_config(hashing).sign(bundle.folder, unfinished)
    except (OSError, ValueError) as error:
        raise ExportError(f"{bundle.folder}: expected a folder that can be written, with no symbolic links in it, got another. "
                          "Sign a plain copy.") from error
    return bundle.folder / SIGNATURE


def check_key(key: Path, ask_password: Callable[[], str]) -> bytes | None:
    """The key's password, where it has one. Raises ExportError for what is no elliptic-curve private key."""
    expected = f"{key}: expected a file with an elliptic-curve private key in PEM, got"
    remedy = "`openssl ecparam -name prime256v1 -genkey -noout -out private.pem` makes one."
    try:
        text = key.read_bytes()
    except OSError as error:
        raise ExportError(f"{expected} none that can be read. Correct --key.") from error
    if b"PUBLIC KEY-----" in text:
        raise ExportError(f"{expected} a public key. That one checks signatures; the private one makes them.")
    password = ask_password().encode() if b"ENCRYPTED" in text else None
    try:
        private = load_pem_private_key(text, password)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        got = "something else" if password is None else "one that this password does not open"
        raise ExportError(f"{expected} {got}. {remedy}") from error
    if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name not in CURVES:
        raise ExportError(f"{expected} one of another kind or curve. {remedy}")
    return password
