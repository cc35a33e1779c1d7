import hashlib
import uuid
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from model_export.errors import ExportError
from model_export.publish import publish
from shutterless.bundles import read_bundle


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch):
    """A real S3 client of an S3 that answers over HTTP, with one bucket."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    yield client
    client.close()
    server.stop()


@pytest.fixture
def bucket(s3) -> str:
    """An empty bucket of its own: the S3 of one process remembers those of the tests before."""
    name = f"models-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


def _keys(s3, bucket: str) -> list[str]:
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_a_published_bundle_is_in_s3_byte_for_byte(s3, bucket: str, bundle_folder: Path):
    bundle = read_bundle(bundle_folder)
    published = publish(bundle, f"s3://{bucket}/vision", client=s3)
    root = f"vision/{bundle.manifest.name}/{bundle.manifest.version}"
    assert published.uri == f"s3://{bucket}/{root}"
    assert sorted(_keys(s3, bucket)) == [f"{root}/manifest.json", f"{root}/model.onnx"]
    stored = s3.get_object(Bucket=bucket, Key=f"{root}/model.onnx")["Body"].read()
    assert hashlib.sha256(stored).hexdigest() == bundle.manifest.files["model.onnx"].sha256


def test_graphs_for_every_machine_are_published(s3, bucket: str, fast_bundle: Path):
    bundle = read_bundle(fast_bundle)
    publish(bundle, f"s3://{bucket}", client=s3)
    assert {key.rpartition("/")[2] for key in _keys(s3, bucket)} == {"manifest.json", *bundle.manifest.files}
    assert len(bundle.manifest.files) == 4 > len(bundle.needed)


def test_publishing_twice_uploads_once(s3, bucket: str, bundle_folder: Path):
    bundle = read_bundle(bundle_folder)
    assert publish(bundle, f"s3://{bucket}", client=s3).uploaded == 2
    assert publish(bundle, f"s3://{bucket}", client=s3).uploaded == 0


def test_a_version_that_holds_other_content_is_not_overwritten(s3, bucket: str, bundle_folder: Path):
    bundle = read_bundle(bundle_folder)
    key = f"{bundle.manifest.name}/{bundle.manifest.version}/model.onnx"
    s3.put_object(Bucket=bucket, Key=key, Body=b"another model")
    with pytest.raises(ExportError, match="a version never changes"):
        publish(bundle, f"s3://{bucket}", client=s3)
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == b"another model"
    assert _keys(s3, bucket) == [key]  # the manifest comes last, so nobody takes this for a bundle


def test_an_upload_that_was_cut_off_is_completed(s3, bucket: str, bundle_folder: Path):
    bundle = read_bundle(bundle_folder)

    def stop(path: str, n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(bundle, f"s3://{bucket}", client=s3, step=stop)
    assert publish(bundle, f"s3://{bucket}", client=s3).uploaded == 1


def test_a_signature_may_come_later_and_be_replaced_while_the_version_stays(s3, bucket: str, make_bundle, tmp_path: Path):
    bundle = read_bundle(make_bundle(tmp_path))
    target = f"s3://{bucket}"
    publish(bundle, target, client=s3)
    for signature in (b"first", b"second"):
        (bundle.folder / "model.sig").write_bytes(signature)
        assert [publish(bundle, target, client=s3).uploaded for _ in range(2)] == [1, 0]
        assert s3.get_object(Bucket=bucket, Key="colours/1/model.sig")["Body"].read() == signature


def test_a_bucket_that_is_not_there_is_one_sentence(s3, bucket: str, bundle_folder: Path):
    with pytest.raises(ExportError, match=r"NoSuchBucket.*Check the bucket's name"):
        publish(read_bundle(bundle_folder), "s3://absent", client=s3)


@pytest.mark.parametrize("place", ["models", "https://models", "s3://", "/tmp/models"])
def test_a_place_outside_s3_is_refused(bundle_folder: Path, place: str):
    with pytest.raises(ExportError, match="Give s3://bucket"):
        publish(read_bundle(bundle_folder), place)
