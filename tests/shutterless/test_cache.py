"""MODEL_URI=s3://... of a server that is not Lambda: what comes from a real S3 over HTTP, and what becomes of it here."""

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

from shutterless.errors import BadBundle, BadSettings, NotFound, Unavailable
from shutterless.opening import default_bundle
from shutterless.settings import Settings

ROOT = Path(__file__).parents[2]
FETCH = ("import sys; from shutterless.opening import default_bundle; from shutterless.settings import Settings; from pathlib "
         "import Path; print(default_bundle(Settings(model_uri=sys.argv[1], var_dir=Path(sys.argv[2]))).sha256)")


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
    """What is in the cache beside locks."""
    cache = tmp_path / "var" / "models-cache"
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.is_dir() else []


# --- What comes

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
    assert s3.requests - asked == 2, "the manifest, and whether there is a signature"


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


def test_a_signature_comes_along_even_when_it_comes_later_or_is_replaced_or_taken_away(start, folder, upload, client, bucket):
    assert "model.sig" not in contents(start().folder)
    for text in ("first", "second"):
        (folder / "model.sig").write_text(text)
        upload(folder)
        assert contents(start().folder)["model.sig"] == text.encode()
    client.delete_object(Bucket=bucket, Key="some/prefix/colours/1/model.sig")
    assert "model.sig" not in contents(start().folder)


def test_with_a_key_what_comes_unsigned_is_refused(start, tmp_path):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "public.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BadBundle, match="not signed"):
        start(signing_key=tmp_path / "public.pem")


# --- What does not come, or not as it should

def test_an_address_where_nothing_is_gets_a_sentence_with_the_remedy(start, uri, tmp_path):
    with pytest.raises(NotFound, match=r"expected a bundle at s3://.*/colours/9.*`shutterless publish` printed"):
        start(model_uri=uri[:-1] + "9")
    assert kept(tmp_path) == []


def test_a_bucket_that_is_not_there_is_the_operator_s_to_mend(start):
    with pytest.raises(BadSettings, match=r"NoSuchBucket.*MODEL_URI"):
        start(model_uri="s3://no-such-bucket-here/colours/1")


def test_a_refused_right_is_the_operator_s_to_mend(start, s3):
    s3.faults.append("403")
    with pytest.raises(BadSettings, match=r"expected the right to GetObject, got AccessDenied.*MODEL_URI"):
        start()


def test_a_role_that_is_told_403_for_a_signature_that_is_not_there_gets_the_bundle(start, s3, tmp_path):
    bundle = start()
    s3.faults += [None, "403"]
    assert start().sha256 == bundle.sha256


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
    (b"x" * 3_072_000, r"deep/weights\.bin: expected sha256 [0-9a-f]{64} from S3, got"),
    (b"short", r"deep/weights\.bin: expected 3,072,000 bytes from S3, got 5\."),
    (b"x" * 3_072_001, r"deep/weights\.bin: expected 3,072,000 bytes from S3, got more"),
    (None, r"deep/weights\.bin: expected a file of 3,072,000 bytes beside the manifest\.json in S3, got none")])
def test_a_file_that_is_not_as_the_manifest_says_is_refused_and_never_served(start, client, bucket, tmp_path, body, sentence):
    key = "some/prefix/colours/1/deep/weights.bin"
    if body is None:
        client.delete_object(Bucket=bucket, Key=key)
    else:
        client.put_object(Bucket=bucket, Key=key, Body=body)
    for _ in range(2):
        with pytest.raises(BadBundle, match=sentence):
            start()
    assert all(name.startswith(".") for name in kept(tmp_path))


@pytest.mark.parametrize("text", [b"", b"<html>", b"{}", b" " * 17_000_000])
def test_what_is_no_manifest_is_no_bundle(start, client, bucket, tmp_path, text):
    client.put_object(Bucket=bucket, Key="some/prefix/colours/1/manifest.json", Body=text)
    with pytest.raises(BadBundle, match=r"manifest\.json"):
        start()
    assert kept(tmp_path) == []


# --- This machine

def test_a_full_disk_is_a_sentence_and_what_filled_it_is_removed(start, tmp_path, folder):
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, most))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(Unavailable, match="the disk is full") as caught:
            start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in str(caught.value)
    assert kept(tmp_path) == []
    assert contents(start().folder) == contents(folder)


def test_a_place_that_is_no_folder_is_a_sentence(start, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable, match="SHUTTERLESS_VAR_DIR"):
        start(var_dir=tmp_path / "file")


def fetch_elsewhere(uri: str, tmp_path: Path) -> subprocess.Popen[str]:
    """The same start, in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", FETCH, uri, str(tmp_path / "var")], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))


def test_what_a_killed_process_left_is_gone_on_with(start, s3, uri, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(s3, "slow_s", 4.0)
    s3.faults += [None, None, "slow", "slow", "slow"]
    process = fetch_elsewhere(uri, tmp_path)
    until = time.monotonic() + 60
    while len(s3.faults) > 2 and time.monotonic() < until:  # the manifest and a file are there, the other is on its way
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name.rpartition(".")[2] for name in kept(tmp_path)] == ["unfinished"]
    s3.faults.clear()
    asked = s3.requests
    bundle = start()
    assert contents(bundle.folder) == contents(folder)
    assert s3.requests - asked == 3, "the manifest, the second file, and whether there is a signature"
    assert kept(tmp_path) == [bundle.sha256]


def test_two_processes_at_once_download_once(s3, uri, tmp_path, folder):
    asked = s3.requests
    processes = [fetch_elsewhere(uri, tmp_path) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert {answer for answer, _ in answers} == {digest + "\n"}
    assert s3.requests - asked == 3 * 2 + 2
    assert kept(tmp_path) == [digest]


def test_threads_of_one_process_are_as_safe(start, folder):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(start().sha256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 4
    assert len(set(answers)) == 1
