"""Signatures of bundles, `model.sig`, checked with a public key and no other package than `cryptography`.

The format is that of OpenSSF's model-signing 1 with an elliptic-curve key: a Sigstore bundle
(https://docs.sigstore.dev/about/bundle/) holds a DSSE envelope (https://github.com/secure-systems-lab/dsse), which holds
an in-toto statement (https://github.com/in-toto/attestation) with the SHA-256 of every file of the folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shutterless.bundles import MANIFEST, Bundle
from shutterless.errors import BadBundle, BadSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

SIGNATURE = "model.sig"
CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}  # and the hash that Sigstore signs with
MAX_BYTES = 4_000_000  # of model.sig: 20,000 files

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_ANEW = "Sign the bundle again with `shutterless sign`."


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What a signature vouches for: the SHA-256 of each file by its path in the folder; `ignored` it left out on purpose."""

    files: dict[str, str]
    ignored: tuple[str, ...]


def check_signature(bundle: Bundle, key: Path) -> Signed:
    """Check that the owner of `key`, a file with a public key, signed this bundle: its manifest and each file in that.

    The bundle comes from read_bundle, so that its files are as its manifest says. What else was signed, a report card,
    no door reads and is not looked at. Raises BadBundle for a bundle that is not signed, or not so; BadSettings for the key.
    """
    public = read_key(key)
    signed = read_signature(_bytes_of(bundle.folder / SIGNATURE), public)
    digests = {MANIFEST: bundle.sha256} | {path: file.sha256 for path, file in bundle.manifest.files.items()}
    for path, sha256 in digests.items():
        if path not in signed.files:
            raise BadBundle(f"{SIGNATURE} does not vouch for {path}: it belongs to another bundle. {_ANEW}")
        if signed.files[path] != sha256:
            raise BadBundle(f"{path}: expected sha256 {signed.files[path]}, as it was signed, got {sha256}. It was changed "
                            f"after signing, or {SIGNATURE} belongs to another bundle. Download the bundle again, or sign it.")
    return signed


def read_key(path: Path) -> EllipticCurvePublicKey:
    """The public key of a PEM file, on one of CURVES. Raises BadSettings."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ModuleNotFoundError as error:
        raise BadSettings("Checking signatures needs the package cryptography, which is not installed. Install "
                          "shutterless[signing].") from error
    expected = "The signing key: expected a file with an elliptic-curve public key in PEM, got"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{expected} none that can be read. Correct its path.") from error
    if b"PRIVATE KEY-----" in text:
        raise BadSettings(f"{expected} a private key. Keep that where you sign; a server gets the public one, which "
                          "`openssl pkey -in private.pem -pubout -out public.pem` writes.")
    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadSettings(f"{expected} something else. `openssl pkey -in private.pem -pubout -out public.pem` writes "
                          "one.") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        kind = f"the curve {key.curve.name}" if isinstance(key, EllipticCurvePublicKey) else "a key of another kind"
        raise BadSettings(f"{expected} {kind}. Sign with one on the curve P-256, P-384 or P-521.")
    return key


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """64 hex digits, the SHA-256 of what `openssl pkey -pubin -in public.pem` writes, by which model-signing knows a key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def read_signature(signature: bytes, key: EllipticCurvePublicKey) -> Signed:
    """What the bytes of a `model.sig` vouch for, once `key` has verified them. Raises BadBundle."""
    document = _parse(signature, "the document")
    _expect_equal(document, "mediaType", _MEDIA_TYPE)
    _check_hint(_object(_object(document, "verificationMaterial"), "publicKey"), key)
    envelope = _object(document, "dsseEnvelope")
    _expect_equal(envelope, "payloadType", _PAYLOAD_TYPE)
    payload = _decode(envelope, "payload")
    match envelope.get("signatures"):
        case [dict(only)]:
            _verify(key, _decode(only, "sig"), payload)
        case signatures:
            raise _misfit("signatures", "exactly one", signatures)
    return _read_statement(_parse(payload, "what was signed"))


def _check_hint(public: dict[str, Any], key: EllipticCurvePublicKey) -> None:
    """The hint names the key, so that a wrong one gets its own sentence; it may be missing, and proves nothing."""
    hint, ours = public.get("hint"), fingerprint(key)
    if hint not in (None, "", ours):
        raise BadBundle(f"{SIGNATURE} was made with another key: expected the one whose digest starts {ours[:16]}, got "
                        f"{str(hint)[:16]!r}. Sign the bundle with that key's private half, or trust the other key.")


def _verify(key: EllipticCurvePublicKey, signature: bytes, payload: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    algorithm: HashAlgorithm = getattr(hashes, CURVES[key.curve.name])()
    try:
        key.verify(signature, encode_for_signing(payload), ECDSA(algorithm))
    except InvalidSignature as error:
        raise BadBundle(f"{SIGNATURE} does not fit the signing key: it was altered, or another key made it. {_ANEW}") from error


def encode_for_signing(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding (its protocol.md): the bytes that are really signed."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _read_statement(statement: dict[str, Any]) -> Signed:
    _expect_equal(statement, "_type", _STATEMENT_TYPE)
    _expect_equal(statement, "predicateType", _PREDICATE_TYPE)
    predicate = _object(statement, "predicate")
    how = _object(predicate, "serialization")
    _expect_equal(how, "method", "files")
    files = _read_resources(predicate.get("resources"))
    whole = hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest()
    match statement.get("subject"):
        case [{"digest": {"sha256": str(digest)}}] if digest == whole:
            ignored = how.get("ignore_paths", [])
            return Signed(files=files, ignored=tuple(map(str, ignored)) if isinstance(ignored, list) else ())
        case subject:
            raise _misfit("subject", f"one, with the sha256 {whole} of all digests", subject)


def _read_resources(resources: Any) -> dict[str, str]:
    """Path -> SHA-256, in the statement's order."""
    if not isinstance(resources, list):
        raise _misfit("resources", "a list", resources)
    files: dict[str, str] = {}
    for resource in resources:
        match resource:
            case {"name": str(name), "algorithm": "sha256", "digest": str(digest)} if re.fullmatch("[0-9a-f]{64}", digest):
                if name in files:
                    raise _misfit("resources", "each file once", name)
                files[name] = digest
            case _:
                raise _misfit("resources", "a name and a sha256 for each file", resource)
    return files


def _bytes_of(file: Path) -> bytes:
    try:
        if not file.is_file():
            raise BadBundle(f"The bundle is not signed: expected {SIGNATURE} beside its manifest, got none. A signing key is "
                            "set, so each bundle must be signed with `shutterless sign`.")
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadBundle(f"{SIGNATURE}: expected a file that can be read, got one that cannot. Check its rights.") from error
    if len(content) > MAX_BYTES:
        raise _misfit("length", f"at most {MAX_BYTES:,} bytes", "more")
    return content


def _parse(text: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadBundle(f"{SIGNATURE}: {what} is not valid JSON. {_ANEW}") from error
    return _object({what: document}, what)


def _object(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name)
    if not isinstance(value, dict):
        raise _misfit(name, "an object", value)
    return value


def _expect_equal(parent: dict[str, Any], name: str, expected: str) -> None:
    if parent.get(name) != expected:
        raise _misfit(name, expected, parent.get(name))


def _decode(parent: dict[str, Any], name: str) -> bytes:
    """Base64, not empty, in its one canonical spelling."""
    text = parent.get(name)
    try:
        content = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        content = b""
    if not content or base64.b64encode(content).decode() != text:
        raise _misfit(name, "base64", text)
    return content


def _misfit(where: str, expected: str, got: object) -> BadBundle:
    return BadBundle(f"{SIGNATURE}: {where}: expected {expected}, got {str(got)[:80]!r}. {_ANEW}")
