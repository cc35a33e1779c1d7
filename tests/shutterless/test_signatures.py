"""`model.sig`, forged in every way that is worth trying, and compared with what OpenSSF's own tool says."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from shutterless.bundles import read_bundle
from shutterless.errors import BadBundle, BadSettings
from shutterless.signatures import check_signature, encode_for_signing

ROOT = Path(__file__).parents[2]
CURVES = {"P-256": (ec.SECP256R1(), hashes.SHA256()), "P-384": (ec.SECP384R1(), hashes.SHA384()),
          "P-521": (ec.SECP521R1(), hashes.SHA512())}


def write_keys(folder: Path, private) -> Path:
    """private.pem and public.pem; returns the path of the public one."""
    (folder / "private.pem").write_bytes(private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / "public.pem").write_bytes(private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return folder / "public.pem"


@pytest.fixture
def private() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def public(private, tmp_path) -> Path:
    return write_keys(tmp_path, private)


@pytest.fixture
def folder(make_bundle, tmp_path) -> Path:
    return make_bundle(tmp_path / "models")


def digests_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())
            if path.name != "model.sig"}


def statement_of(files: dict[str, str]) -> dict:
    """What model-signing signs for these files, written from its documentation."""
    whole = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in files.values())).hexdigest()
    return {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "any", "digest": {"sha256": whole}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {"serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
                          "resources": [{"name": name, "algorithm": "sha256", "digest": digest}
                                        for name, digest in files.items()]}}


def envelop(private, payload: bytes, signed: bytes | None = None, algorithm: hashes.HashAlgorithm | None = None) -> dict:
    """The document around a payload; `signed` replaces the bytes that the signature is made over."""
    over = b"DSSEv1 28 application/vnd.in-toto+json " + f"{len(payload)} ".encode() + payload if signed is None else signed
    signature = private.sign(over, ec.ECDSA(algorithm or hashes.SHA256()))
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": hashlib.sha256(pem).hexdigest()}, "tlogEntries": []},
            "dsseEnvelope": {"payload": base64.b64encode(payload).decode(), "payloadType": "application/vnd.in-toto+json",
                             "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}]}}


@pytest.fixture
def forge(folder, private) -> Callable[..., None]:
    """`forge(change_statement=..., change_document=...)` signs the bundle, with something changed before or after."""
    def forge(change_statement=lambda statement: None, change_document=lambda document: None, **how) -> None:
        statement = statement_of(digests_of(folder))
        change_statement(statement)
        document = envelop(private, json.dumps(statement).encode(), **how)
        change_document(document)
        (folder / "model.sig").write_text(json.dumps(document))
    return forge


def reference(command: str, folder: Path, public: Path) -> subprocess.CompletedProcess[str]:
    """OpenSSF's command line, in a process of its own."""
    key = ["--public_key", public] if command == "verify" else ["--private_key", public.with_name("private.pem")]
    return subprocess.run([sys.executable, "-m", "model_signing", command, "key", folder, "--signature", folder / "model.sig",
                           *key], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})


# --- Both tools agree

@pytest.mark.parametrize("curve", CURVES)
def test_what_the_reference_tool_signed_is_accepted(folder, tmp_path, curve):
    public = write_keys(tmp_path, ec.generate_private_key(CURVES[curve][0]))
    (folder / "report.html").write_text("a card")
    done = reference("sign", folder, public)
    assert done.returncode == 0, done.stderr
    bundle = read_bundle(folder)
    signed = check_signature(bundle, public)
    assert list(signed.files) == ["manifest.json", "model.onnx", "report.html"]
    assert signed.files["manifest.json"] == bundle.sha256
    assert "model.sig" in signed.ignored


def test_a_forgery_that_changes_nothing_is_a_signature_for_both(folder, forge, public):
    """So that the refusals below are of what was changed, and of nothing else."""
    forge()
    assert check_signature(read_bundle(folder), public)
    done = reference("verify", folder, public)
    assert done.returncode == 0, done.stderr


def test_the_bytes_that_are_signed_are_those_of_the_dsse_protocol():
    assert encode_for_signing(b"hello w\xc3\xb6rld") == b"DSSEv1 28 application/vnd.in-toto+json 12 hello w\xc3\xb6rld"
    assert encode_for_signing(b"") == b"DSSEv1 28 application/vnd.in-toto+json 0 "


# --- The bundle is another than the one signed

def test_an_unsigned_bundle_is_refused(folder, public):
    with pytest.raises(BadBundle, match=r"not signed: expected model\.sig beside its manifest, got none.*`shutterless sign`"):
        check_signature(read_bundle(folder), public)


def test_a_bundle_whose_manifest_was_written_anew_after_signing_is_refused(folder, forge, public):
    """With digests that fit, so that only the signature can tell."""
    forge()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"labels": ["green", "red", "blue"]}))
    with pytest.raises(BadBundle, match=r"manifest\.json: expected sha256 .* as it was signed, got"):
        check_signature(read_bundle(folder), public)


def test_the_signature_of_another_bundle_is_refused(folder, forge, public, make_bundle, tmp_path):
    forge()
    other = make_bundle(tmp_path / "others", labels=["a", "b", "c"])
    shutil.copy(folder / "model.sig", other)
    with pytest.raises(BadBundle, match="belongs to another bundle"):
        check_signature(read_bundle(other), public)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_signature_that_leaves_out_a_file_that_is_read_is_refused(folder, private, public, name):
    files = digests_of(folder)
    del files[name]
    (folder / "model.sig").write_text(json.dumps(envelop(private, json.dumps(statement_of(files)).encode())))
    with pytest.raises(BadBundle, match=f"does not vouch for {name}"):
        check_signature(read_bundle(folder), public)


def test_a_signed_file_that_no_door_reads_may_be_missing_or_changed(folder, forge, public):
    (folder / "report.html").write_text("a card")
    forge()
    (folder / "report.html").write_text("another card")
    assert check_signature(read_bundle(folder), public)
    (folder / "report.html").unlink()
    assert check_signature(read_bundle(folder), public)


def test_a_file_that_came_after_signing_does_not_close_a_door_since_none_reads_it(folder, forge, public):
    forge()
    (folder / ".DS_Store").write_bytes(b"what macOS leaves")
    assert check_signature(read_bundle(folder), public)


# --- The signed statement is another than model-signing's

def predicate(**fields):
    return lambda statement: statement["predicate"].update(fields)


def duplicate(statement):
    statement["predicate"]["resources"].insert(0, statement["predicate"]["resources"][0] | {"digest": "0" * 64})


STATEMENTS = {
    "other type": (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "_type: expected"),
    "other predicate": (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicateType: expected"),
    "as model-signing 0.2": (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "predicateType"),
    "no predicate": (lambda s: s.pop("predicate"), "predicate: expected an object"),
    "predicate is a list": (lambda s: s.update(predicate=[]), "predicate: expected an object"),
    "no subject": (lambda s: s.update(subject=[]), "subject: expected one"),
    "subject missing": (lambda s: s.pop("subject"), "subject: expected one"),
    "two subjects": (lambda s: s.update(subject=s["subject"] * 2), "subject: expected one"),
    "subject of another digest": (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "subject: expected one"),
    "shards": (predicate(serialization={"method": "shards"}), "method: expected files"),
    "serialization missing": (lambda s: s["predicate"].pop("serialization"), "serialization: expected an object"),
    "no resources": (predicate(resources=[]), "subject: expected one"),
    "resources missing": (lambda s: s["predicate"].pop("resources"), "resources: expected a list"),
    "a resource is no object": (predicate(resources=["model.onnx"]), "resources: expected a name and a sha256"),
    "another algorithm": (lambda s: s["predicate"]["resources"][0].update(algorithm="blake3"), "resources: expected a name"),
    "a digest in capitals": (lambda s: s["predicate"]["resources"][0].update(digest="A" * 64), "resources: expected a name"),
    "a file twice": (duplicate, "resources: expected each file once, got 'manifest.json'"),
}


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_well_signed_statement_of_another_shape_is_refused(folder, forge, public, what):
    change, sentence = STATEMENTS[what]
    forge(change_statement=change)
    with pytest.raises(BadBundle, match=sentence):
        check_signature(read_bundle(folder), public)


def test_no_files_at_all_vouch_for_nothing(folder, private, public):
    (folder / "model.sig").write_text(json.dumps(envelop(private, json.dumps(statement_of({})).encode())))
    with pytest.raises(BadBundle, match=r"does not vouch for manifest\.json"):
        check_signature(read_bundle(folder), public)


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_a_payload_that_is_no_statement_is_refused(folder, private, public, payload):
    (folder / "model.sig").write_text(json.dumps(envelop(private, payload)))
    with pytest.raises(BadBundle, match=r"model\.sig"):
        check_signature(read_bundle(folder), public)


# --- The envelope was altered, or signed otherwise

def envelope(**fields):
    return lambda document: document["dsseEnvelope"].update(fields)


def only_signature(change):
    def apply(document):
        [signature] = document["dsseEnvelope"]["signatures"]
        signature["sig"] = change(signature["sig"])
    return apply


def second_signature(document):
    document["dsseEnvelope"]["signatures"] *= 2


def swap_payload(document):
    text = base64.b64decode(document["dsseEnvelope"]["payload"])
    document["dsseEnvelope"]["payload"] = base64.b64encode(text + b" ").decode()


DOCUMENTS = {
    "an older media type": (lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"), "mediaType"),
    "no media type": (lambda d: d.pop("mediaType"), "mediaType: expected"),
    "made with a certificate": (lambda d: d.update(verificationMaterial={"x509CertificateChain": {}}), "publicKey: expected"),
    "another key's hint": (lambda d: d["verificationMaterial"]["publicKey"].update(hint="0" * 64), "made with another key"),
    "no envelope": (lambda d: d.pop("dsseEnvelope"), "dsseEnvelope: expected an object"),
    "a plain message instead": (lambda d: d.update(dsseEnvelope=None, messageSignature={}), "dsseEnvelope: expected"),
    "another payload type": (envelope(payloadType="application/json"), "payloadType: expected"),
    "no signature": (envelope(signatures=[]), "signatures: expected exactly one"),
    "two signatures": (second_signature, "signatures: expected exactly one"),
    "signatures is an object": (envelope(signatures={"0": {}}), "signatures: expected exactly one"),
    "signature is empty": (only_signature(lambda sig: ""), "sig: expected base64"),
    "signature is null": (only_signature(lambda sig: None), "sig: expected base64"),
    "signature is no DER": (only_signature(lambda sig: "AAAA"), "does not fit the signing key"),
    "signature cut short": (only_signature(lambda sig: base64.b64encode(base64.b64decode(sig)[:-1]).decode()), "does not fit"),
    "signature of zeros": (only_signature(lambda sig: "MAYCAQACAQA="), "does not fit the signing key"),
    "signature with a line break": (only_signature(lambda sig: sig[:8] + "\n" + sig[8:]), "sig: expected base64"),
    "signature in the URL's alphabet": (only_signature(lambda sig: "-_-_" + sig), "sig: expected base64"),
    "payload changed by a space": (swap_payload, "does not fit the signing key"),
    "payload padded too much": (lambda d: envelope(payload=d["dsseEnvelope"]["payload"] + "====")(d), "payload: expected base64"),
    "payload is a list": (envelope(payload=["e30="]), "payload: expected base64"),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_an_altered_envelope_is_refused(folder, forge, public, what):
    change, sentence = DOCUMENTS[what]
    forge(change_document=change)
    with pytest.raises(BadBundle, match=sentence):
        check_signature(read_bundle(folder), public)


@pytest.mark.parametrize("padding", ["=", "=="])
def test_base64_with_bits_that_count_for_nothing_is_refused(folder, private, public, padding):
    files = digests_of(folder)
    payload = json.dumps(statement_of(files)).encode()
    payload += b" " * ((-len(payload) - len(padding)) % 3)
    document = envelop(private, payload)
    text = document["dsseEnvelope"]["payload"]
    assert text.endswith(padding)
    assert text[-len(padding) - 1] != "="
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = other[other.index(text[-len(padding) - 1]) + 1]
    document["dsseEnvelope"]["payload"] = text[:-len(padding) - 1] + last + padding
    assert base64.b64decode(document["dsseEnvelope"]["payload"], validate=True) == payload
    (folder / "model.sig").write_text(json.dumps(document))
    with pytest.raises(BadBundle, match="payload: expected base64"):
        check_signature(read_bundle(folder), public)


def test_a_hint_that_is_missing_changes_nothing(folder, forge, public):
    forge(change_document=lambda document: document["verificationMaterial"]["publicKey"].pop("hint"))
    assert check_signature(read_bundle(folder), public)


@pytest.mark.parametrize("signed", [
    lambda payload: payload,
    lambda payload: b"DSSEv1 28 application/vnd.in-toto+json 0 " + payload,
    lambda payload: b"DSSEv1 16 application/json " + f"{len(payload)} ".encode() + payload,
    lambda payload: f"DSSEV1 28 application/vnd.in-toto+json {len(payload)} {payload}".encode()],
    ids=["the payload alone", "a wrong length", "another type", "as model-signing before 1.0"])
def test_a_signature_over_anything_but_the_dsse_encoding_is_refused(folder, private, public, signed):
    payload = json.dumps(statement_of(digests_of(folder))).encode()
    (folder / "model.sig").write_text(json.dumps(envelop(private, payload, signed=signed(payload))))
    with pytest.raises(BadBundle, match="does not fit the signing key"):
        check_signature(read_bundle(folder), public)


def test_a_signature_over_another_hash_is_refused(folder, forge, public):
    forge(algorithm=hashes.SHA512())
    with pytest.raises(BadBundle, match="does not fit the signing key"):
        check_signature(read_bundle(folder), public)


def test_another_s_signature_that_claims_to_be_ours_is_refused(folder, private, public):
    """An attacker may write our key's hint, and sign with theirs."""
    theirs = ec.generate_private_key(ec.SECP256R1())
    document = envelop(theirs, json.dumps(statement_of(digests_of(folder))).encode())
    document["verificationMaterial"] = envelop(private, b"{}")["verificationMaterial"]
    (folder / "model.sig").write_text(json.dumps(document))
    with pytest.raises(BadBundle, match="does not fit the signing key"):
        check_signature(read_bundle(folder), public)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\0" * 100, b"[" * 100_000, b"1" * 5000])
def test_a_file_that_is_no_signature_is_refused(folder, public, content):
    (folder / "model.sig").write_bytes(content)
    with pytest.raises(BadBundle, match=r"model\.sig"):
        check_signature(read_bundle(folder), public)


def test_a_huge_file_is_refused_unread_and_a_folder_is_no_signature(folder, public):
    with (folder / "model.sig").open("wb") as file:
        file.truncate(10 ** 12)
    with pytest.raises(BadBundle, match="at most 4,000,000 bytes"):
        check_signature(read_bundle(folder), public)
    (folder / "model.sig").unlink()
    (folder / "model.sig").mkdir()
    with pytest.raises(BadBundle, match="not signed"):
        check_signature(read_bundle(folder), public)


# --- The key

KEYS = {"RSA": (lambda: rsa.generate_private_key(65537, 2048), "a key of another kind"),
        "Ed25519": (ed25519.Ed25519PrivateKey.generate, "a key of another kind"),
        "secp256k1": (lambda: ec.generate_private_key(ec.SECP256K1()), "the curve secp256k1"),
        "P-224": (lambda: ec.generate_private_key(ec.SECP224R1()), "the curve secp224r1")}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_of_another_kind_is_the_operator_s_to_mend(folder, forge, tmp_path, kind):
    make, sentence = KEYS[kind]
    forge()
    key = write_keys(tmp_path, make())
    with pytest.raises(BadSettings, match=f"expected a file with an elliptic-curve public key in PEM, got {sentence}"):
        check_signature(read_bundle(folder), key)


def test_a_private_key_is_refused_in_the_place_of_the_public_one(folder, forge, public):
    forge()
    with pytest.raises(BadSettings, match=r"got a private key.*openssl pkey"):
        check_signature(read_bundle(folder), public.with_name("private.pem"))


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_file_that_holds_no_key_is_the_operator_s_to_mend(folder, forge, tmp_path, content):
    forge()
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadSettings, match="got something else"):
        check_signature(read_bundle(folder), tmp_path / "key")


def test_a_key_that_is_not_there_is_the_operator_s_to_mend_and_its_path_stays_here(folder, forge, tmp_path):
    forge()
    for key in (tmp_path / "absent.pem", tmp_path):
        with pytest.raises(BadSettings, match="got none that can be read") as caught:
            check_signature(read_bundle(folder), key)
        assert str(tmp_path) not in str(caught.value)


def test_another_key_of_the_right_kind_is_told_apart(folder, forge, tmp_path):
    forge()
    key = write_keys(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(BadBundle, match="made with another key"):
        check_signature(read_bundle(folder), key)


def test_without_the_package_the_sentence_names_the_extra(folder, forge, public):
    forge()
    code = ("import sys; sys.modules['cryptography'] = None\nfrom pathlib import Path\n"
            "from shutterless.errors import BadSettings\nfrom shutterless.opening import open_bundle\n"
            "from shutterless.settings import Settings\n"
            "try: open_bundle(Settings(signing_key=Path(sys.argv[2])), Path(sys.argv[1]))\n"
            "except BadSettings as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code, folder, public], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Checking signatures needs the package cryptography, which is not installed.")
