"""How a door opens its bundle: by name, by folder, and, where it is not Lambda, out of a real S3 over HTTP."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from model_export.sign import sign
from shutterless.bundles import read_bundle
from shutterless.errors import BadBundle, BadSettings, NotFound, Unavailable
from shutterless.opening import default_bundle, default_folder, open_bundle
from shutterless.settings import Settings

ROOT = Path(__file__).parents[2]
FETCH = ("import sys; from shutterless.opening import default_bundle; from shutterless.settings import Settings; from pathlib "
         "import Path; print(default_bundle(Settings(model_uri=sys.argv[1], var_dir=Path(sys.argv[2]))).sha256)")


def test_a_bundle_is_found_by_name_or_by_its_place(models_dir, bundle_folder, tmp_path, monkeypatch):
    assert default_folder(Settings(model="colours", models_dir=models_dir)) == bundle_folder
    monkeypatch.chdir(bundle_folder.parent)
    assert default_folder(Settings(model_uri="1", models_dir=tmp_path)) == bundle_folder
    with pytest.raises(NotFound, match="colours/1"):
        default_folder(Settings(model="colors", models_dir=models_dir))


def test_without_a_key_an_unsigned_bundle_opens_and_nothing_is_loaded_to_check_one(bundle_folder):
    code = ("import sys; from pathlib import Path; from shutterless.opening import open_bundle\n"
            "from shutterless.settings import Settings\n"
            "print(open_bundle(Settings(), Path(sys.argv[1])).sha256); print(*sys.modules)")
    shown = subprocess.run([sys.executable, "-c", code, bundle_folder], cwd=ROOT, capture_output=True, text=True, check=True)
    digest, modules = shown.stdout.splitlines()
    assert digest == hashlib.sha256((bundle_folder / "manifest.json").read_bytes()).hexdigest()
    assert not {"cryptography", "boto3"} & set(modules.split())


def test_with_a_key_the_digests_are_checked_before_the_signature(make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "models")
    settings = Settings(signing_key=tmp_path / "absent.pem")
    (folder / "model.onnx").write_bytes(b"x" * json.loads((folder / "manifest.json").read_text())["files"]["model.onnx"]["bytes"])
    with pytest.raises(BadBundle, match=r"model\.onnx: expected sha256"):
        open_bundle(settings, folder)


# --- Out of S3

@pytest.fixture
def client(boto_session, s3):
    opened = boto_session.client("s3")
    yield opened
    opened.close()


@pytest.fixture
def folder(make_bundle, tmp_path) -> Path:
    """A bundle of two files, one of them in a folder and larger than what is read at once."""
    extra = bytes(range(256)) * 12_000
    files = {"deep/weights.bin": {"sha256": hashlib.sha256(extra).hexdigest(), "bytes": len(extra)}}
    folder = make_bundle(tmp_path / "published")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": manifest["files"] | files}))
    (folder / "deep").mkdir()
    (folder / "deep/weights.bin").write_bytes(extra)
    return folder


@pytest.fixture
def upload(client, bucket) -> Callable[[Path], str]:
    """`upload(folder)` -> its address, all files of it there."""
    def upload(folder: Path, version: str = "1") -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                client.put_object(Bucket=bucket, Key=f"some/prefix/colours/{version}/{path.relative_to(folder).as_posix()}",
                                  Body=path.read_bytes())
        return f"s3://{bucket}/some/prefix/colours/{version}"
    return upload


@pytest.fixture
def uri(upload, folder) -> str:
    return upload(folder)


@pytest.fixture
def start(uri, tmp_path) -> Callable:
    """`start(**settings)` opens the bundle as a door does."""
    def start(**settings):
        return default_bundle(Settings(**{"model_uri": uri, "var_dir": tmp_path / "var"} | settings))
    return start


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kept(tmp_path: Path) -> list[str]:
    """What is in the cache."""
    cache = tmp_path / "var" / "models-cache"
    return sorted(path.name for path in cache.iterdir()) if cache.is_dir() else []


def test_a_bundle_comes_byte_for_byte_into_the_folder_of_its_digest(start, folder, tmp_path):
    bundle = start()
    assert bundle.folder == tmp_path / "var" / "models-cache" / bundle.sha256
    assert contents(bundle.folder) == contents(folder)
    assert bundle.sha256 == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("change", [lambda uri: uri + "/", lambda uri: uri])
def test_a_slash_at_the_end_changes_nothing(start, uri, change):
    assert start(model_uri=change(uri)).manifest.name == "colours"


def test_a_second_start_asks_for_no_file_of_the_bundle(start, s3):
    first = start()
    asked = s3.requests
    assert start().sha256 == first.sha256
    assert s3.requests - asked == 1, "the manifest"


def test_two_versions_lie_beside_each_other(start, upload, make_bundle, tmp_path):
    other = upload(make_bundle(tmp_path / "others", version="2", labels=["a", "b", "c"]), version="2")
    assert {start().manifest.version, start(model_uri=other).manifest.version} == {"1", "2"}
    assert len(kept(tmp_path)) == 2


def test_a_file_that_was_cut_here_since_then_comes_again(start, folder):
    file = start().folder / "deep/weights.bin"
    with file.open("r+b") as stream:
        stream.truncate(1000)
    assert contents(start().folder) == contents(folder)


def test_files_that_no_manifest_lists_are_not_downloaded(start, folder, upload):
    (folder / "report.html").write_text("a card")
    upload(folder)
    assert "report.html" not in contents(start().folder)


@pytest.fixture
def keys(tmp_path) -> tuple[Path, Path]:
    """Files of a private and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_with_a_key_the_signature_is_asked_for_at_each_start(start, folder, upload, keys, client, bucket, s3):
    private, public = keys
    start()
    with pytest.raises(BadBundle, match="not signed"):
        start(signing_key=public)
    sign(read_bundle(folder), private, ask_password=str)
    upload(folder)
    asked = s3.requests
    assert contents(start(signing_key=public).folder) == contents(folder)
    assert s3.requests - asked == 2, "the manifest and the signature: nothing is downloaded again"
    client.delete_object(Bucket=bucket, Key="some/prefix/colours/1/model.sig")
    with pytest.raises(BadBundle, match="not signed"):
        start(signing_key=public)


def test_a_role_that_is_told_403_for_a_signature_that_is_not_there_is_told_that_there_is_none(start, s3, keys):
    s3.faults += [None, None, None, "403"]
    with pytest.raises(BadBundle, match="not signed"):
        start(signing_key=keys[1])


def test_an_address_with_a_digest_is_held_to_it_and_then_asks_for_nothing(start, uri, s3):
    bundle = start()
    asked = s3.requests
    assert start(model_uri=f"{uri}@sha256:{bundle.sha256}") == bundle
    assert s3.requests == asked
    with pytest.raises(BadBundle, match="MODEL_URI expects sha256 0000"):
        start(model_uri=f"{uri}@sha256:{'0' * 64}")


# What does not come, or not as it should.

def test_an_address_where_nothing_is_gets_a_sentence_with_the_remedy(start, uri, tmp_path):
    with pytest.raises(NotFound, match=r"expected a bundle at s3://.*/colours/9, found no manifest\.json there"):
        start(model_uri=uri[:-1] + "9")
    assert kept(tmp_path) == []


def test_a_bucket_that_is_not_there_is_the_operator_s_to_mend(start):
    with pytest.raises(BadSettings, match=r"NoSuchBucket.*MODEL_URI"):
        start(model_uri="s3://no-such-bucket-here/colours/1")


def test_a_refused_right_is_the_operator_s_to_mend(start, s3):
    s3.faults.append("403")
    with pytest.raises(BadSettings, match=r"expected the right to GetObject, got AccessDenied.*MODEL_URI"):
        start()


@pytest.mark.parametrize("faults", [["503", "503"], ["cut"], [None, "503"], [None, "cut", "503"], [None, None, "cut", "cut"]])
def test_faults_that_pass_are_survived(start, s3, folder, faults):
    s3.faults += faults
    assert contents(start().folder) == contents(folder)
    assert s3.faults == []


@pytest.mark.parametrize("fault", ["503", "cut"])
@pytest.mark.parametrize("well", [0, 1])
def test_faults_that_stay_end_in_unavailable(start, s3, folder, fault, well):
    s3.faults += [None] * well + [fault] * 50
    with pytest.raises(Unavailable, match=r"object store .*Try again"):
        start()
    s3.faults.clear()
    assert contents(start().folder) == contents(folder)


def test_a_store_that_nobody_serves_is_unavailable(start, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="does not answer"):
        start()


@pytest.mark.parametrize(("body", "sentence"), [
    (b"x" * 3_072_000, r"deep/weights\.bin: expected sha256 [0-9a-f]{64}, S3 has"),
    (b"short", r"deep/weights\.bin: expected 3,072,000 bytes, S3 has none or fewer"),
    (b"", r"deep/weights\.bin: expected 3,072,000 bytes, S3 has none or fewer"),
    (None, r"deep/weights\.bin: expected 3,072,000 bytes, S3 has none or fewer")])
def test_a_file_that_is_not_as_the_manifest_says_is_refused_and_never_served(start, client, bucket, tmp_path, body, sentence):
    key = "some/prefix/colours/1/deep/weights.bin"
    if body is None:
        client.delete_object(Bucket=bucket, Key=key)
    else:
        client.put_object(Bucket=bucket, Key=key, Body=body)
    for _ in range(2):
        with pytest.raises(BadBundle, match=sentence):
            start()
    assert kept(tmp_path) == []


@pytest.mark.parametrize("text", [b"", b"<html>", b"{}"])
def test_what_is_no_manifest_is_no_bundle(start, client, bucket, tmp_path, text):
    client.put_object(Bucket=bucket, Key="some/prefix/colours/1/manifest.json", Body=text)
    with pytest.raises(BadBundle, match=r"manifest\.json"):
        start()
    assert kept(tmp_path) == []


# This machine.

def test_a_full_disk_is_a_sentence_and_what_filled_it_is_removed(start, tmp_path, folder):
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(BadSettings, match="expected room for the bundle, got a full disk"):
            start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept(tmp_path) == []
    assert contents(start().folder) == contents(folder)


def test_a_place_that_is_no_folder_is_a_sentence(start, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadSettings, match="SHUTTERLESS_VAR_DIR"):
        start(var_dir=tmp_path / "file")


def fetch_elsewhere(uri: str, tmp_path: Path) -> subprocess.Popen[str]:
    """The same start, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", FETCH, uri, str(tmp_path / "var")], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))


def test_what_a_killed_process_left_is_removed_by_the_next(start, s3, uri, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(s3, "slow_s", 4.0)
    s3.faults += [None, None, "slow"]
    process = fetch_elsewhere(uri, tmp_path)
    until = time.monotonic() + 60
    while s3.faults and time.monotonic() < until:  # the manifest and a file are there, the other is on its way
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name.rpartition(".")[2] for name in kept(tmp_path)] == ["unfinished"]
    s3.faults.clear()
    bundle = start()
    assert contents(bundle.folder) == contents(folder)
    assert kept(tmp_path) == [bundle.sha256]


def test_two_processes_at_once_download_once(s3, uri, tmp_path, folder):
    asked = s3.requests
    processes = [fetch_elsewhere(uri, tmp_path) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert {answer for answer, _ in answers} == {digest + "\n"}
    assert s3.requests - asked == 3 + 2, "each the manifest, one the files"
    assert kept(tmp_path) == [digest]


@pytest.mark.parametrize("on_lambda", [True, False])
def test_a_cold_lambda_does_not_pay_for_boto3(uri, tmp_path, on_lambda):
    there = {"AWS_REGION": "us-east-1"} | ({"AWS_LAMBDA_FUNCTION_NAME": "predict"} if on_lambda else {})
    done = subprocess.run([sys.executable, "-c", FETCH + "; print('boto3' in sys.modules)", uri, tmp_path / "var"], cwd=ROOT,
                          text=True, capture_output=True, check=True, env=os.environ | there)
    assert done.stdout.splitlines()[1] == str(not on_lambda)


def test_threads_of_one_process_are_as_safe(start, folder):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(start().sha256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
