"""sign and check-signature, beside OpenSSF's own command line, which must say the same; then what the doors do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ROOT = Path(__file__).parents[2]


def write_private(path: Path, key, password: bytes | None = None) -> Path:
    """As `openssl ecparam -genkey` writes it, or, with a password, as `openssl pkey -aes256` does."""
    form = PrivateFormat.PKCS8 if password else PrivateFormat.TraditionalOpenSSL
    path.write_bytes(key.private_bytes(Encoding.PEM, form, BestAvailableEncryption(password) if password else NoEncryption()))
    return path


def make_keys(folder: Path, curve: ec.EllipticCurve | None = None) -> Path:
    """private.pem and public.pem; returns the public one."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(curve or ec.SECP256R1())
    write_private(folder / "private.pem", key)
    (folder / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return folder / "public.pem"


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def private(public) -> Path:
    return public.with_name("private.pem")


@pytest.fixture
def folder(make_bundle, tmp_path) -> Path:
    """An unsigned bundle with a report card."""
    folder = make_bundle(tmp_path / "mine")
    (folder / "report.html").write_text("a card")
    return folder


def reference(*arguments: object) -> subprocess.CompletedProcess[str]:
    """OpenSSF's command line, in a process of its own."""
    return subprocess.run([sys.executable, "-m", "model_signing", *map(str, arguments)], capture_output=True, text=True,
                          check=False, cwd=ROOT)


def reference_verifies(folder: Path, public: Path) -> bool:
    """What the same command line says, called in this process: that is several seconds cheaper."""
    from model_signing._cli import main

    done = CliRunner().invoke(main, ["verify", "key", str(folder), "--signature", str(folder / "model.sig"),
                                     "--public_key", str(public)])
    assert done.exit_code == 0 or "Verification failed" in done.output, done.output
    return done.exit_code == 0


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
def test_what_sign_signed_verifies_with_both_tools(shutterless, folder, tmp_path, curve):
    public = make_keys(tmp_path / "keys", curve())
    done = shutterless("sign", folder, "--key", public.with_name("private.pem"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"colours/1 is signed: {folder / 'model.sig'}" in done.stdout.decode()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "model.sig", "report.html"]
    done = shutterless("check-signature", folder, "--key", public)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "report.html  not signed" in done.stdout.decode()
    done = reference("verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr


def test_what_the_reference_tool_signed_verifies_here_and_its_extras_count(shutterless, folder, public, private):
    done = reference("sign", "key", folder, "--signature", folder / "model.sig", "--private_key", private)
    assert done.returncode == 0, done.stderr
    done = shutterless("check-signature", folder, "--key", public)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "report.html  sha256 " in done.stdout.decode()
    (folder / "report.html").write_text("99.9 %")
    done = shutterless("check-signature", folder, "--key", public)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"shutterless: report.html: expected sha256 ")
    assert not reference_verifies(folder, public)


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


CHANGES = {
    "nothing": (lambda folder: None, True),
    "the report card is written anew": (lambda folder: (folder / "report.html").write_text("another"), True),
    "the report card is not copied along": (lambda folder: (folder / "report.html").unlink(), True),
    "the folder is renamed": (lambda folder: folder.rename(folder.with_name("2")), True),
    "a byte of the graph": (lambda folder: alter(folder / "model.onnx"), False),
    "a byte of the manifest": (lambda folder: alter(folder / "manifest.json"), False),
    "a file more": (lambda folder: (folder / "extra.bin").write_bytes(b"came later"), False),
    "a file more in a folder": (lambda folder: ((folder / "deep").mkdir(), (folder / "deep/er").write_bytes(b"")), False),
    "a byte of the signature": (lambda folder: alter(folder / "model.sig"), False),
}


@pytest.mark.parametrize("what", CHANGES)
def test_both_tools_agree_on_what_may_change_after_signing(shutterless, folder, public, private, what):
    change, fits = CHANGES[what]
    assert shutterless("sign", folder, "--key", private).returncode == 0
    change(folder)
    [now] = [path for path in folder.parent.iterdir() if path.is_dir()]
    done = shutterless("check-signature", now, "--key", public)
    assert (done.returncode == 0) == fits, done.stderr
    assert done.stderr.count(b"\n") == (0 if fits else 1)
    if what != "a byte of the signature":  # the reference tool dies of JSON that does not parse
        assert reference_verifies(now, public) == fits


def test_signing_again_replaces_the_signature(shutterless, folder, public, private, tmp_path):
    other = make_keys(tmp_path / "others")
    for key in (private, other.with_name("private.pem")):
        assert shutterless("sign", folder, "--key", key).returncode == 0
    assert shutterless("check-signature", folder, "--key", other).returncode == 0
    assert b"made with another key" in shutterless("check-signature", folder, "--key", public).stderr


def test_a_key_with_a_password_is_opened_with_the_one_from_a_pipe(shutterless, folder, public, private, tmp_path):
    locked = write_private(tmp_path / "locked.pem", load_pem_private_key(private.read_bytes(), None), "sesame é".encode())
    done = shutterless("sign", folder, "--key", locked, stdin="sesame é\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert shutterless("check-signature", folder, "--key", public).returncode == 0
    for stdin in (b"wrong\n", b""):
        done = shutterless("sign", folder, "--key", locked, stdin=stdin)
        assert done.returncode == 1
        assert b"one that this password does not open" in done.stderr


def write(text: str):
    return lambda path: path.write_text(text)


WRONG_KEYS = {
    "a public one": (lambda path: shutil.copy(make_keys(path.parent), path), b"got a public key"),
    "RSA": (lambda path: write_private(path, rsa.generate_private_key(65537, 2048)), b"got one of another kind or curve"),
    "another curve": (lambda path: write_private(path, ec.generate_private_key(ec.SECP256K1())), b"kind or curve"),
    "empty": (write(""), b"got something else"),
    "text": (write("hello"), b"got something else"),
    "a folder": (Path.mkdir, b"got none that can be read"),
    "absent": (lambda path: None, b"got none that can be read"),
}


@pytest.mark.parametrize("what", WRONG_KEYS)
def test_a_key_that_cannot_sign_is_one_sentence_and_leaves_nothing(shutterless, folder, tmp_path, what):
    make, sentence = WRONG_KEYS[what]
    make(tmp_path / "key.pem")
    before = sorted(folder.iterdir())
    done = shutterless("sign", folder, "--key", tmp_path / "key.pem")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert sentence in done.stderr
    assert sorted(folder.iterdir()) == before


def test_a_broken_bundle_is_not_signed(shutterless, folder, private):
    alter(folder / "model.onnx")
    done = shutterless("sign", folder, "--key", private)
    assert done.returncode == 1
    assert b"model.onnx: expected sha256" in done.stderr
    assert not (folder / "model.sig").exists()


def test_a_folder_with_symbolic_links_is_not_signed_since_the_reference_tool_takes_none(shutterless, folder, private):
    (folder / "latest").symlink_to("model.onnx")
    done = shutterless("sign", folder, "--key", private)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"no symbolic links" in done.stderr
    assert not list(folder.glob("*model.sig*"))


def test_a_bundle_in_s3_is_signed_where_it_was_made(shutterless, private):
    done = shutterless("sign", "s3://bucket/colours/1", "--key", private)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Copy the bundle into a folder first" in done.stderr


def test_what_a_killed_signing_left_is_not_signed_along(shutterless, folder, public, private):
    (folder / ".model.sig.unfinished").write_text("half")
    assert shutterless("sign", folder, "--key", private).returncode == 0
    assert not (folder / ".model.sig.unfinished").exists()
    assert reference_verifies(folder, public)


# --- Doors

@pytest.fixture
def shelf(make_bundle, shutterless, private, tmp_path) -> Path:
    """A models folder: signed/1, unsigned/1, and altered/1, whose labels were changed after signing."""
    models = tmp_path / "shelf"
    for name in ("signed", "altered"):
        assert shutterless("sign", make_bundle(models, name=name), "--key", private).returncode == 0
    make_bundle(models, name="unsigned")
    manifest = models / "altered/1/manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"labels": ["a", "b", "c"]}))
    return models


REFUSALS = {"signed": None, "unsigned": "not signed", "altered": "as it was signed"}


@pytest.mark.parametrize("model", REFUSALS)
@pytest.mark.parametrize("command", ["predict", "check"])
def test_the_command_line_answers_only_with_a_signed_bundle(shutterless, shelf, public, pictures, command, model):
    arguments = ["predict", pictures / "red.png", "--model", model] if command == "predict" else ["check", model]
    done = shutterless(*arguments, SHUTTERLESS_MODELS_DIR=str(shelf), SHUTTERLESS_SIGNING_KEY=str(public))
    assert done.returncode == (0 if REFUSALS[model] is None else 1)
    assert (REFUSALS[model] or "").encode() in done.stderr
    assert shutterless(*arguments, SHUTTERLESS_MODELS_DIR=str(shelf)).returncode == 0, "without a key, any"


@pytest.mark.parametrize("model", ["unsigned", "altered"])
def test_what_is_not_signed_is_not_measured_either(shutterless, shelf, public, model):
    done = shutterless("bench", "model", model, SHUTTERLESS_MODELS_DIR=str(shelf), SHUTTERLESS_SIGNING_KEY=str(public))
    assert (done.returncode, done.stdout) == (1, b"")
    assert REFUSALS[model].encode() in done.stderr


def test_a_setting_that_names_no_key_stops_the_command(shutterless, shelf, pictures):
    done = shutterless("predict", pictures / "red.png", "--model", "signed", SHUTTERLESS_MODELS_DIR=str(shelf),
                       SHUTTERLESS_SIGNING_KEY="absent.pem")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"shutterless: The signing key: expected a file with")


@pytest.mark.parametrize("model", ["unsigned", "altered"])
def test_the_server_refuses_to_start_with_a_bundle_that_is_not_signed(start, shelf, public, model):
    server = start("serve", "--model", model, "--port", "0", SHUTTERLESS_MODELS_DIR=str(shelf),
                   SHUTTERLESS_SIGNING_KEY=str(public))
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 1
    assert REFUSALS[model].encode() in errors


def test_models_tells_which_are_signed(shutterless, shelf, public):
    def told(**variables: str) -> dict[str, str]:
        lines = shutterless("models", "--json", SHUTTERLESS_MODELS_DIR=str(shelf), **variables).stdout.splitlines()
        return {entry["name"]: entry["signed"] for entry in map(json.loads, lines)}

    assert told() == {"signed": "unchecked", "altered": "unchecked", "unsigned": "no"}
    assert told(SHUTTERLESS_SIGNING_KEY=str(public)) == {"signed": "yes", "altered": "no", "unsigned": "no"}
    table = shutterless("models", SHUTTERLESS_MODELS_DIR=str(shelf), SHUTTERLESS_SIGNING_KEY=str(public)).stdout.decode()
    assert [line.split()[-2] for line in table.strip().splitlines()[2:]] == ["no", "yes", "no"]
