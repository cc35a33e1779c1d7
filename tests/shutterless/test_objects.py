import base64
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shutterless.errors import BadRequest, BadSettings, NotFound, Permanent, TooLarge, Unavailable
from shutterless.objects import FolderObjects, open_objects

ROOT = Path(__file__).parents[2]
KEY = "uploads/classify/8b1f.jpg"
KEYS = [KEY, "a", "with space/and + plus.jpg", "Ünïcödé/日本/🛰.png", "100%25/a&b=c?d#e;f'\"<>.jpg", "x" * 255]


@pytest.fixture(params=["folder", "s3", "s3 with a prefix"])
def objects(request, tmp_path):
    if request.param == "folder":
        yield open_objects(str(tmp_path / "objects"))
        return
    bucket = request.getfixturevalue("bucket")
    opened = open_objects(f"s3://{bucket}/some/prefix" if "prefix" in request.param else f"s3://{bucket}")
    yield opened
    opened.close()


@pytest.fixture
def impatient(bucket):
    """An S3 store that waits a third of a second for an answer and asks three times."""
    from shutterless.aws import S3Objects
    opened = S3Objects(bucket, read_timeout_s=0.3, attempts=3)
    yield opened
    opened.close()


# --- On every store

def test_it_says_whether_something_is_there(objects):
    version = objects.put(KEY, b"x", "image/jpeg")
    assert objects.has(KEY)
    assert objects.has(KEY, version)
    assert not objects.has("uploads/classify/other.jpg")
    objects.delete(KEY)
    assert not objects.has(KEY)


@pytest.mark.parametrize("key", KEYS)
def test_what_was_put_comes_back(objects, key):
    body = os.urandom(1000) + b"\r\n\0"
    objects.put(key, body, "image/jpeg")
    assert objects.get(key) == body


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_any_size_comes_back(objects, size):
    body = os.urandom(size)
    objects.put(KEY, body, "image/png")
    assert objects.get(KEY) == body


def test_a_key_that_is_put_again_has_the_newer_bytes(objects):
    objects.put(KEY, b"older and longer", "image/jpeg")
    objects.put(KEY, b"newer", "image/jpeg")
    assert objects.get(KEY) == b"newer"


def test_what_was_never_put_or_was_deleted_is_not_found(objects):
    with pytest.raises(NotFound):
        objects.get(KEY)
    objects.put(KEY, b"picture", "image/jpeg")
    objects.delete(KEY)
    with pytest.raises(NotFound):
        objects.get(KEY)


def test_deleting_twice_or_what_never_was_is_no_error(objects):
    objects.put(KEY, b"picture", "image/jpeg")
    for key in (KEY, KEY, "never/was.jpg"):
        objects.delete(key)


def test_neighbours_are_left_alone(objects):
    for key in ("a/b.jpg", "a/b.png", "ab.jpg"):
        objects.put(key, key.encode(), "image/jpeg")
    objects.delete("a/b.jpg")
    assert [objects.get(key) for key in ("a/b.png", "ab.jpg")] == [b"a/b.png", b"ab.jpg"]


def test_a_version_that_is_not_there_is_not_found(objects):
    objects.put(KEY, b"picture", "image/jpeg")
    with pytest.raises(NotFound):
        objects.get(KEY, version="3/L4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY")


def test_many_threads_put_and_get(objects):
    def round_trip(i):
        objects.put(f"threads/{i % 5}/{i}", b"%d" % i * 500, "image/jpeg")
        return objects.get(f"threads/{i % 5}/{i}") == b"%d" % i * 500

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(40)))


# --- In a folder

@pytest.mark.parametrize("key", ["", "/", "/etc/passwd", "..", "../a", "a/../../b", "a//b", "a/", "./a", ".incoming/a",
                                 "a/.hidden", "nul\0", "back\\slash", "é" * 128, "a/" * 600 + "a", "\ud800"])
def test_a_key_that_could_leave_the_folder_is_refused(tmp_path, key):
    objects = FolderObjects(tmp_path / "objects")
    for attempt in (lambda: objects.put(key, b"", ""), lambda: objects.get(key), lambda: objects.delete(key)):
        with pytest.raises(BadRequest, match="key: expected"):
            attempt()
    assert list(tmp_path.iterdir()) == [tmp_path / "objects"]


def test_a_key_below_a_file_and_a_key_that_is_a_folder_are_not_found(tmp_path):
    objects = FolderObjects(tmp_path)
    objects.put("a/b", b"picture", "image/jpeg")
    for key in ("a", "a/b/c"):
        with pytest.raises(NotFound):
            objects.get(key)
        objects.delete(key)
    assert objects.get("a/b") == b"picture"


def test_a_reader_never_sees_half_a_picture(tmp_path):
    objects = FolderObjects(tmp_path)
    bodies = [bytes([i]) * 400_000 for i in range(2)]
    objects.put(KEY, bodies[0], "image/jpeg")
    stop = threading.Event()

    def keep_writing():
        while not stop.is_set():
            for body in bodies:
                objects.put(KEY, body, "image/jpeg")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(keep_writing)
        try:
            assert all(objects.get(KEY) in bodies for _ in range(200))
        finally:
            stop.set()
        writing.result()


def test_a_full_disk_is_unavailable_and_leaves_nothing_behind(tmp_path):
    objects = FolderObjects(tmp_path)
    objects.put(KEY, b"older", "image/jpeg")
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))  # the kernel refuses to write on, as on a full disk
    try:
        with pytest.raises(Unavailable, match="disk is full") as caught:
            objects.put(KEY, b"x" * 1_000_000, "image/jpeg")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path) not in str(caught.value)
    assert list((tmp_path / ".incoming").iterdir()) == []
    assert objects.get(KEY) == b"older"


def test_what_a_killed_writer_left_is_swept_at_the_next_start_once_it_is_old(tmp_path):
    FolderObjects(tmp_path)
    old, fresh = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "fresh"
    for path, age_s in ((old, 7200), (fresh, 0)):
        path.write_bytes(b"half a pic")
        os.utime(path, (time.time() - age_s,) * 2)
    FolderObjects(tmp_path)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_a_folder_that_cannot_be_made_or_that_is_gone_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable):
        open_objects(str(tmp_path / "file" / "objects"))
    objects = FolderObjects(tmp_path / "objects")
    shutil.rmtree(tmp_path / "objects")
    with pytest.raises(Unavailable, match="no such file"):
        objects.put(KEY, b"picture", "image/jpeg")


def test_a_folder_store_does_not_load_boto3(tmp_path):
    code = "import sys; from shutterless.objects import open_objects; open_objects(sys.argv[1]); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout
    assert not {"boto3", "botocore"} & set(loaded.split())


# --- In S3

def test_each_version_can_be_read_until_it_is_gone(impatient):
    first = impatient.put(KEY, b"first", "image/jpeg")
    second = impatient.put(KEY, b"second", "image/jpeg")
    assert first != second
    assert [impatient.get(KEY, version) for version in (first, second, None)] == [b"first", b"second", b"second"]
    impatient.delete(KEY)
    assert impatient.get(KEY, first) == b"first"


def test_s3_is_told_the_type_and_a_sha256_to_check(impatient, bucket, boto_session):
    impatient.put(KEY, b"picture", "image/webp")
    client = boto_session.client("s3")
    head = client.head_object(Bucket=bucket, Key=KEY, ChecksumMode="ENABLED")
    client.close()
    assert head["ContentType"] == "image/webp"
    assert head["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(b"picture").digest()).decode()


@pytest.mark.parametrize("faults", [["503", "503"], ["slow", "503"], ["slow", "slow"]])
def test_two_faults_are_survived(impatient, s3, faults):
    s3.faults += faults
    impatient.put(KEY, b"picture" * 1000, "image/jpeg")
    s3.faults += faults
    assert impatient.get(KEY) == b"picture" * 1000
    assert s3.faults == []


@pytest.mark.parametrize("faults", [["cut"], ["cut", "cut"], ["503", "cut", "503"]])
def test_a_body_that_breaks_off_is_read_again(impatient, s3, faults):
    body = os.urandom(300_000)
    impatient.put(KEY, body, "image/jpeg")
    s3.faults += faults
    assert impatient.get(KEY) == body
    assert s3.faults == []


@pytest.mark.parametrize("fault", ["503", "slow", "cut"])
def test_many_faults_end_in_unavailable_within_a_bounded_time(impatient, s3, fault):
    impatient.put(KEY, b"picture" * 1000, "image/jpeg")
    s3.faults += [fault] * 50
    start, asked = time.monotonic(), s3.requests
    with pytest.raises(Unavailable):
        impatient.get(KEY)
    assert s3.requests - asked == 3
    if fault != "cut":  # a put's answer has no body to cut
        with pytest.raises(Unavailable):
            impatient.put(KEY, b"other", "image/jpeg")
    assert time.monotonic() - start < 12


def test_a_store_that_nobody_serves_is_unavailable(bucket, monkeypatch):
    from shutterless.aws import S3Objects
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(Unavailable):
        S3Objects(bucket, attempts=1).get(KEY)


def test_a_bucket_that_is_not_there_is_the_operators_to_mend(s3):
    with pytest.raises(BadSettings, match="NoSuchBucket"):
        open_objects("s3://no-such-bucket-here").put(KEY, b"picture", "image/jpeg")
    with pytest.raises(BadSettings, match="no bucket"):
        open_objects("s3://no-such-bucket-here").has(KEY)


def test_missing_credentials_are_the_operators_to_mend(bucket, monkeypatch):
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BadSettings, match=r"AWS_\* variables"):
        open_objects(f"s3://{bucket}").get(KEY)


def test_a_refused_right_is_permanent_and_named(impatient, s3):
    s3.faults.append("403")
    with pytest.raises(BadSettings, match="expected the right to GetObject, got AccessDenied") as caught:
        impatient.get(KEY)
    assert isinstance(caught.value, Permanent)


@pytest.mark.parametrize(("status", "code", "message", "meaning"), [
    (400, "InvalidArgument", "Invalid version id specified", NotFound), (404, "NoSuchVersion", "", NotFound),
    (405, "MethodNotAllowed", "The specified method is not allowed against this resource.", NotFound),
    (400, "InvalidArgument", "Requests specifying Server Side Encryption with AWS KMS managed keys require AWS Signature "
                             "Version 4.", BadSettings),
    (403, "AccessDenied", "Access Denied", BadSettings), (404, "NoSuchBucket", "", BadSettings),
    (403, "RequestTimeTooSkewed", "", BadSettings), (400, "ExpiredToken", "", Unavailable), (503, "SlowDown", "", Unavailable)])
def test_only_what_is_not_there_is_not_found(status, code, message, meaning):
    """A picture whose reading ends in NotFound has failed for good; with the others, it is read again."""
    from botocore.exceptions import ClientError

    from shutterless.aws import _meaning
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    assert type(_meaning(ClientError(answer, "GetObject"))) is meaning


# --- What only S3 can say

@pytest.fixture
def s3_objects(bucket):
    opened = open_objects(f"s3://{bucket}")
    yield opened
    opened.close()


def test_an_object_that_is_too_large_is_not_read(s3_objects, s3):
    s3_objects.put(KEY, b"x" * 1000, "image/jpeg")
    assert len(s3_objects.read(KEY, max_bytes=1000).body) == 1000
    with pytest.raises(TooLarge, match="at most 999 bytes, got 1,000"):
        s3_objects.read(KEY, max_bytes=999)


def test_deleted_is_not_the_same_as_never_there(s3_objects):
    version = s3_objects.put(KEY, b"x", "image/jpeg")
    assert not s3_objects.is_deleted(KEY)
    s3_objects.delete(KEY)
    assert s3_objects.is_deleted(KEY)
    assert s3_objects.has(KEY, version)
    assert not s3_objects.is_deleted("never")
    s3_objects.put(KEY, b"y", "image/jpeg")
    assert not s3_objects.is_deleted(KEY)


def test_the_first_version_is_that_of_this_key_alone(s3_objects):
    s3_objects.put(KEY + "0", b"x", "image/jpeg")
    versions = [s3_objects.put(KEY, bytes([n]), "image/jpeg") for n in range(3)]
    s3_objects.delete(KEY)
    assert s3_objects.first_version(KEY) == versions[0]
    assert s3_objects.first_version("never") is None
