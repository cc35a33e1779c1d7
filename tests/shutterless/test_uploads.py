import uuid

import pytest

from shutterless.bodies import Submission
from shutterless.errors import BadPicture, BadRequest
from shutterless.formats import JPEG, PNG
from shutterless.uploads import TASKS, key_of, read_announcement, read_upload, request_id_of, task_of

JPEG_BYTES = b"\xff\xd8\xff\xe0"


def test_the_query_goes_before_the_body_and_an_empty_field_is_not_filled_in():
    submission = Submission(picture=JPEG_BYTES, fields={"true_label": "body", "model": "small"})
    upload = read_upload(submission, {"true_label": "query", "model": "", "task": None})
    assert (upload.true_label, upload.model, upload.task, upload.format) == ("query", "small", "classify", JPEG)


@pytest.mark.parametrize(("picture", "asked", "error"), [
    (b"none", {}, BadPicture), (b"", {}, BadPicture), (JPEG_BYTES, {"task": "paint"}, BadRequest),
    (JPEG_BYTES, {"true_label": "x" * 201}, BadRequest), (JPEG_BYTES, {"true_label": "a\0"}, BadRequest)])
def test_what_cannot_be_kept_is_refused(picture, asked, error):
    with pytest.raises(error):
        read_upload(Submission(picture=picture), asked)
    with pytest.raises(error):  # also where the query, which goes before the body, is right
        read_upload(Submission(picture=picture, fields=asked), {"task": "classify", "true_label": "red"})


def test_an_announced_size_may_be_written_as_json_writes_any_integer():
    def announced(size_bytes):
        return read_announcement(b'{"content_type": "image/png", "size_bytes": %s}' % size_bytes, 10_000)

    assert announced(b"120.0") == announced(b"1.2e2") == announced(b"120")
    for size_bytes in (b"120.5", b"1e999", b"0.0", b"true", b'"120"'):
        with pytest.raises(BadRequest, match="size_bytes"):
            announced(size_bytes)


@pytest.mark.parametrize("task", TASKS)
def test_a_key_leads_back_to_its_request_and_its_task(task):
    request_id = str(uuid.uuid4())
    key = key_of(task, request_id, PNG)
    assert key == f"uploads/{task}/{request_id}.png"
    assert request_id_of("bucket", key, "v1") == request_id_of("other", key, "v2") == (request_id, True)
    assert task_of(key) == task


@pytest.mark.parametrize("key", ["photo.jpg", "uploads/classify/photo.jpg", "uploads/classify/a/8b1f.jpg",
                                 f"uploads/classify/{uuid.uuid4()}", f"uploads/classify/{str(uuid.uuid4()).upper()}.jpg",
                                 f"x/uploads/classify/{uuid.uuid4()}.jpg", f"uploads/classify/{uuid.uuid4()}.jpg\n"])
def test_what_others_put_has_an_id_for_each_bucket_key_and_version(key):
    places = [("a", key, "1"), ("b", key, "1"), ("a", key + "x", "1"), ("a", key, "2"), ("a", key, None)]
    found = [request_id_of(*place) for place in places]
    assert [is_ours for _, is_ours in found] == [False] * 5
    assert len({request_id for request_id, _ in found}) == 5
    assert all(uuid.UUID(request_id).version == 5 for request_id, _ in found)
    assert found == [request_id_of(*place) for place in places]
