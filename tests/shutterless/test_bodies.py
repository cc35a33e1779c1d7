import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shutterless.bodies import FORM_BYTES, Submission, read_submission
from shutterless.errors import BadRequest, ShutterlessError, TooLarge, UnsupportedPicture

PICTURE = bytes(range(256)) * 3 + b"\r\n--b\r\n--bo\r\n"
FORM = "multipart/form-data; boundary=border"


def form(*parts: tuple[str, bytes]) -> bytes:
    """A form's body: pairs of a content disposition's parameters and a content."""
    return b"".join(f"--border\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
                    for head, content in parts) + b"--border--\r\n"


def sent_as_json(**fields) -> Submission:
    return read_submission("application/json", json.dumps(fields).encode(), 10_000)


# Raw

@pytest.mark.parametrize("content_type", ["image/jpeg", "IMAGE/PNG", "image/x-whatever; q=1", None, "",
                                          "application/octet-stream"])
def test_raw_bytes_are_the_picture_whatever_image_they_are_called(content_type):
    assert read_submission(content_type, PICTURE, 10_000) == Submission(picture=PICTURE)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "video/mp4", "é; ü"])
def test_another_content_type_is_refused_with_what_is_accepted(content_type):
    with pytest.raises(UnsupportedPicture, match=r"image/\*, multipart/form-data .* application/json"):
        read_submission(content_type, PICTURE, 10_000)


def test_a_picture_is_one_even_where_curl_calls_it_a_form(draw, encode):
    picture = encode(draw(), "JPEG")
    assert read_submission("application/x-www-form-urlencoded", picture, 10_000) == Submission(picture=picture)


# Forms

def test_the_part_named_file_is_the_picture_and_the_others_are_fields():
    body = form(('name="true_label"', b"Forest"), ('name="file"; filename="tile.jpg"', PICTURE),
                ('name="task"', b"classify"))
    assert read_submission(FORM, body, 10_000) == Submission(
        picture=PICTURE, filename="tile.jpg", fields={"true_label": "Forest", "task": "classify"})


def test_file_counts_even_after_another_upload_and_without_a_filename():
    body = form(('name="other"; filename="a.jpg"', b"other"), ('name="file"', PICTURE))
    submission = read_submission(FORM, body, 10_000)
    assert (submission.picture, submission.filename, submission.fields) == (PICTURE, None, {})


def test_without_file_the_first_part_with_a_filename_counts():
    body = form(('name="a"', b"1"), ('name="image"; filename="a.jpg"', PICTURE),
                ('name="b"; filename="b.jpg"', b"other"))
    submission = read_submission(FORM, body, 10_000)
    assert (submission.picture, submission.filename, submission.fields) == (PICTURE, "a.jpg", {"a": "1"})


@pytest.mark.parametrize(("sent", "shown"), [
    ("tile.jpg", "tile.jpg"), ("../../etc/passwd", "passwd"), ("C:\\photos\\tile.jpg", "tile.jpg"), ("", None),
    ("größe.jpg", "größe.jpg"), ("a\tb.jpg", "ab.jpg"), ("x" * 300 + ".jpg", "x" * 251 + ".jpg")])
def test_a_filename_is_only_its_last_part(sent, shown):
    body = form((f'name="file"; filename="{sent}"', PICTURE))
    assert read_submission(FORM, body, 10_000).filename == shown


def test_a_form_without_a_picture_is_refused_with_a_remedy():
    with pytest.raises(BadRequest, match="curl: -F file=@"):
        read_submission(FORM, form(('name="a"', b"1")), 10_000)


@pytest.mark.parametrize("body", [b"", b"nonsense", form(('name="file"; filename="a"', PICTURE))[:-6], b"--border\r\n",
                                  form(('name="file"; filename="a"', PICTURE))[:40]])
def test_a_form_that_is_cut_short_is_refused(body):
    with pytest.raises(BadRequest, match="cut short or broken"):
        read_submission(FORM, body, 10_000)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=",
                                          "multipart/form-data; boundary=other",
                                          "multipart/form-data; boundary=" + "x" * 999])
def test_a_form_with_the_wrong_boundary_is_refused(content_type):
    with pytest.raises(BadRequest, match="boundary"):
        read_submission(content_type, form(('name="file"; filename="a"', PICTURE)), 10_000)


def test_a_form_of_very_many_parts_is_refused():
    with pytest.raises(BadRequest, match="100 parts"):
        read_submission(FORM, form(*[('name="a"', b"1")] * 101), 10_000)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_a_field_that_no_database_takes_is_refused(content):
    with pytest.raises(BadRequest, match="true_label"):
        read_submission(FORM, form(('name="file"; filename="a"', PICTURE), ('name="true_label"', content)), 10_000)


# JSON

@pytest.mark.parametrize("name", ["image_base64", "image_b64"])
@pytest.mark.parametrize("encoded", [
    pytest.param(base64.b64encode(PICTURE).decode(), id="standard"),
    pytest.param(base64.urlsafe_b64encode(PICTURE).decode(), id="URL-safe"),
    pytest.param(base64.b64encode(PICTURE).decode().rstrip("="), id="without padding"),
    pytest.param(base64.encodebytes(PICTURE).decode(), id="with line breaks"),
    pytest.param("data:image/png;base64," + base64.b64encode(PICTURE).decode(), id="data URL")])
def test_base64_is_taken_in_every_usual_spelling(name, encoded):
    assert sent_as_json(**{name: encoded}).picture == PICTURE


@pytest.mark.parametrize("encoded", ["A", "AAAA!", "AA=A", "AAAA=", "=", "ä", "data:image/png,AAAA", "data:", None, 5,
                                     ["AAAA"], {}])
def test_what_is_no_base64_is_refused_with_a_remedy(encoded):
    with pytest.raises(BadRequest, match=r"image_base64: expected a picture in base64, got .*\. Encode"):
        sent_as_json(image_base64=encoded)


def test_other_strings_and_numbers_are_fields():
    submission = sent_as_json(image_base64="AAAA", extension="png", top=3, share=0.5, task=None, filename="a/b.png")
    assert submission.fields == {"extension": "png", "top": "3", "share": "0.5"}
    assert submission.filename == "b.png"


@pytest.mark.parametrize("value", [True, [], {}, "\ud800", "a\0"])
def test_a_field_of_another_kind_is_refused_by_name(value):
    with pytest.raises(BadRequest, match="true_label"):
        sent_as_json(image_base64="AAAA", true_label=value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"AAAA"', b"{}", b'{"picture": "AAAA"}', b"[" * 70_000,
                                  b'{"image_base64": "AAAA", "image_b64": "AAAA"}',
                                  b'{"image_base64": "AAAA", "top": NaN}', b'{"top": ' + b"9" * 5000 + b"}"])
def test_json_that_does_not_fit_is_refused_with_a_remedy(body):
    with pytest.raises(BadRequest, match=r"The body: .*Send"):
        read_submission("application/json; charset=utf-8", body, 10_000)


# Size

@pytest.mark.parametrize("wrap", [
    pytest.param(lambda p: ("image/png", p), id="raw"),
    pytest.param(lambda p: (FORM, form(('name="file"; filename="a"', p))), id="form"),
    pytest.param(lambda p: ("application/json", json.dumps({"image_b64": base64.encodebytes(p).decode()}).encode()),
                 id="JSON")])
def test_the_limit_holds_for_the_picture_and_is_inclusive(wrap):
    most = 1_000_000
    assert len(read_submission(*wrap(bytes(most)), most).picture) == most
    for length in (most + 1, most + FORM_BYTES, most * 3):
        with pytest.raises(TooLarge, match="at most 1,000,000 bytes"):
            read_submission(*wrap(bytes(length)), most)


# Any bytes

TYPES = st.sampled_from([FORM, "multipart/form-data; boundary=b", "application/json", "image/png", None])
PIECES = st.lists(st.sampled_from([
    b"--border", b"--b", b"--", b"\r\n", b"\n", b"\r", b": ", b'Content-Disposition: form-data; name="file"',
    b'; filename="a"', b"\r\n\r\n", b"Content-Type: a\r\n", b";", b"=", b"x", b"\0", b"\xff", b'"', b"{", b"}",
    b"[", b"]", b'"image_base64":', b'"AAAA"', b",", b"1e999"]), max_size=30).map(b"".join)


@given(TYPES | st.text(max_size=60), st.binary(max_size=300) | PIECES)
def test_from_any_bytes_comes_a_submission_or_an_error_of_ours(content_type, body):
    try:
        submission = read_submission(content_type, body, 100)
    except ShutterlessError:
        return
    assert len(submission.picture) <= 100
