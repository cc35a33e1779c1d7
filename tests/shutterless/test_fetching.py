"""A real S3 over HTTP, and one that misbehaves."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

import shutterless.fetching
import shutterless.s3
from shutterless.bundles import find_bundle, read_bundle
from shutterless.errors import BadBundle, BadSettings, NotFound, Unavailable
from shutterless.fetching import fetch_bundle, parse_uri
from shutterless.opening import default_bundle
from shutterless.settings import Settings


@pytest.fixture
def client(s3, boto_session):
    client = boto_session.client("s3")
    yield client
    client.close()


@pytest.fixture
def put(client, bucket):
    """`put(folder)`: a bundle under models/colours/1 of the bucket; returns its address."""
    def put(folder: Path) -> str:
        for file in filter(Path.is_file, folder.iterdir()):
            client.put_object(Bucket=bucket, Key=f"models/colours/1/{file.name}", Body=file.read_bytes())
        return f"s3://{bucket}/models/colours/1"
    return put


@pytest.fixture
def uri(put, bundle_folder) -> str:
    return put(bundle_folder)


@pytest.fixture
def environ(s3, monkeypatch) -> dict[str, str]:
    monkeypatch.setattr(shutterless.s3, "PAUSE_S", 0.01)
    return dict(os.environ)


@pytest.mark.parametrize("every_file", [True, False])
def test_a_bundle_that_was_just_fetched_is_the_one_that_was_there_before(put, environ, tmp_path, every_file):
    uri = put(find_bundle("eurosat-resnet50", Settings.from_environment({}).models_dir))
    first, again = (fetch_bundle(uri, tmp_path, environ, every_file=every_file) for _ in range(2))
    assert (first, len(first.batched)) == (again, len(first.optimised))


@pytest.fixture
def large(make_bundle, tmp_path) -> Path:
    """A bundle with a file of 25 parts, the last of them short."""
    weights = os.urandom(24 * 1000 + 7)
    folder = make_bundle(tmp_path / "large")
    manifest = (folder / "manifest.json").read_text()
    entry = f'"weights/all.bin": {{"sha256": "{hashlib.sha256(weights).hexdigest()}", "bytes": {len(weights)}}}, "model.onnx"'
    (folder / "manifest.json").write_text(manifest.replace('"model.onnx"', entry, 1))
    (folder / "weights").mkdir()
    (folder / "weights" / "all.bin").write_bytes(weights)
    return folder


@pytest.fixture
def large_uri(large, client, bucket, monkeypatch) -> str:
    monkeypatch.setattr(shutterless.fetching, "PART_BYTES", 1000)
    for file in (path for path in large.rglob("*") if path.is_file()):
        client.put_object(Bucket=bucket, Key=f"large/1/{file.relative_to(large)}", Body=file.read_bytes())
    return f"s3://{bucket}/large/1"


def test_a_bundle_comes_whole_into_a_folder_named_after_its_digest(uri, environ, bundle_folder, tmp_path):
    bundle = fetch_bundle(uri, tmp_path / "models", environ)
    assert bundle.folder == tmp_path / "models" / bundle.sha256
    assert bundle.sha256 == read_bundle(bundle_folder).sha256
    assert read_bundle(bundle.folder) == bundle
    assert [path.name for path in (tmp_path / "models").iterdir()] == [bundle.sha256]


def test_a_large_file_comes_in_parts_and_whole(large_uri, large, environ, tmp_path):
    bundle = fetch_bundle(large_uri, tmp_path, environ)
    assert (bundle.folder / "weights/all.bin").read_bytes() == (large / "weights/all.bin").read_bytes()


def test_settings_that_name_an_address_open_it(uri, environ, tmp_path):
    bundle = default_bundle(Settings(model_uri=uri, var_dir=tmp_path))
    assert bundle.folder.parent == tmp_path / "models-cache"


# Held to a digest

def test_a_bundle_with_its_digest_is_asked_for_once(uri, environ, bundle_folder, tmp_path, s3):
    pinned = f"{uri}@sha256:{read_bundle(bundle_folder).sha256}"
    first = fetch_bundle(pinned, tmp_path, environ)
    asked = s3.requests
    assert fetch_bundle(pinned, tmp_path, environ) == first
    assert s3.requests == asked


def test_another_manifest_than_the_one_asked_for_is_refused(uri, environ, tmp_path):
    with pytest.raises(BadBundle, match="MODEL_URI expects sha256 0000"):
        fetch_bundle(f"{uri}@sha256:{'0' * 64}", tmp_path, environ)
    assert list(tmp_path.iterdir()) == []


def test_a_kept_bundle_that_was_damaged_is_fetched_again(uri, environ, tmp_path):
    bundle = fetch_bundle(uri, tmp_path, environ)
    (bundle.folder / "model.onnx").write_bytes(b"damaged")
    assert read_bundle(fetch_bundle(uri, tmp_path, environ).folder).sha256 == bundle.sha256


# What differs

@pytest.mark.parametrize("content", [b"", b"other", b"o" * 100_000])
def test_a_file_that_differs_from_the_manifest_is_refused_and_not_kept(uri, client, bucket, environ, tmp_path, content):
    client.put_object(Bucket=bucket, Key="models/colours/1/model.onnx", Body=content)
    with pytest.raises(BadBundle, match=r"model\.onnx: expected .*Publish"):
        fetch_bundle(uri, tmp_path, environ)
    assert list(tmp_path.iterdir()) == []


def test_one_other_byte_in_one_part_is_found(large_uri, large, client, bucket, environ, tmp_path):
    weights = bytearray((large / "weights/all.bin").read_bytes())
    weights[12_345] ^= 1
    client.put_object(Bucket=bucket, Key="large/1/weights/all.bin", Body=bytes(weights))
    with pytest.raises(BadBundle, match=r"weights/all\.bin: expected sha256"):
        fetch_bundle(large_uri, tmp_path / "here", environ)


# Faults

@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_fault_that_passes_costs_only_time(large_uri, environ, tmp_path, s3, fault):
    s3.faults[:] = [fault, fault, None, None, fault, None, fault]
    assert fetch_bundle(large_uri, tmp_path / "here", environ).manifest.name == "colours"


def test_a_silence_is_not_waited_for(uri, environ, tmp_path, s3, monkeypatch):
    monkeypatch.setattr(shutterless.s3, "READ_S", 0.3)
    s3.faults[:] = ["slow", None, "slow"]
    assert fetch_bundle(uri, tmp_path, environ).manifest.name == "colours"


@pytest.mark.parametrize("fault", ["503", "cut"])
def test_a_fault_that_stays_may_be_tried_again_later_and_leaves_nothing(uri, environ, tmp_path, s3, fault):
    s3.faults[:] = [None] + [fault] * 20
    with pytest.raises(Unavailable, match="Try again"):
        fetch_bundle(uri, tmp_path, environ)
    s3.faults.clear()
    assert list(tmp_path.iterdir()) == []
    assert fetch_bundle(uri, tmp_path, environ).manifest.name == "colours"


def test_nobody_there_may_be_tried_again_later(environ, tmp_path):
    with pytest.raises(Unavailable, match="Try again"):
        fetch_bundle("s3://bucket/colours/1", tmp_path, environ | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"})


def test_a_refusal_names_the_right_that_is_missing(uri, environ, tmp_path, s3):
    s3.faults[:] = ["403"]
    with pytest.raises(BadSettings, match=r"s3:GetObject, got AccessDenied"):
        fetch_bundle(uri, tmp_path, environ)


def test_an_address_without_a_bundle_says_so(uri, environ, tmp_path):
    with pytest.raises(NotFound, match=r"no manifest\.json there"):
        fetch_bundle(f"{uri}0", tmp_path, environ)


def test_a_folder_that_cannot_be_written_says_so(uri, environ, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="SHUTTERLESS_VAR_DIR"):
        fetch_bundle(uri, tmp_path / "file" / "models", environ)


def test_two_starts_at_once_end_with_one_bundle(large_uri, environ, tmp_path):
    fetched = []
    threads = [threading.Thread(target=lambda: fetched.append(fetch_bundle(large_uri, tmp_path / "here", environ)))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 3
    assert read_bundle(fetched[0].folder).sha256 == fetched[2].sha256
    assert len(list((tmp_path / "here").iterdir())) == 1


# Addresses

@pytest.mark.parametrize("uri", ["s3://b", "s3://bucket", "s3://bucket/", "http://bucket/a/1", "s3://Bucket/a/1",
                                 "s3://bucket/a/1@sha256:abc", "s3://bucket/a/1@latest", "s3:///a/1"])
def test_what_is_no_address_gets_a_sentence(uri):
    with pytest.raises(BadSettings, match="MODEL_URI: expected s3://BUCKET/PREFIX/NAME/VERSION"):
        parse_uri(uri)


@pytest.mark.parametrize(("environ", "host", "path"), [
    ({"AWS_REGION": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com", ""),
    ({"AWS_DEFAULT_REGION": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn", ""),
    ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://here:4566/"}, "http://here:4566", "/bucket"),
    ({"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://b"}, "http://b", "/bucket")])
def test_a_bucket_s_address_follows_region_and_endpoint(environ, host, path):
    assert shutterless.s3.place("bucket", environ) == (host, path)


def test_a_name_that_no_certificate_fits_goes_into_the_path():
    assert shutterless.s3.place("my.bucket", {"AWS_REGION": "eu-west-1"}) == (
        "https://s3.eu-west-1.amazonaws.com", "/my.bucket")


@pytest.mark.parametrize("environ", [{}, {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "here:4566"}])
def test_a_missing_region_and_a_wrong_endpoint_get_a_sentence(environ):
    with pytest.raises(BadSettings, match=r"AWS_(REGION|ENDPOINT_URL): expected"):
        shutterless.s3.place("bucket", environ)
