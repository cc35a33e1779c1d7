"""The short way to a small plain JPEG's pixels: which ones take it, and that nobody can tell."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from shutterless import pictures
from shutterless.errors import BadPicture, TooLarge
from shutterless.jpeg import plain_size
from shutterless.pictures import Limits, decode

PLAIN = ({}, {"optimize": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 100}, {"quality": 1},
         {"comment": b"a comment"}, {"restart_marker_rows": 1}, {"qtables": "web_high"}, {"dpi": (300, 300)})


@pytest.fixture
def by_plugin(monkeypatch):
    """What `decode` gives without the short way: its pixels, or its refusal."""
    def outcome(picture: bytes) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(pictures, "plain_size", lambda picture: None)
            return found(picture)
    return outcome


def found(picture: bytes) -> object:
    try:
        image = decode(picture)
    except BadPicture as error:
        return type(error), str(error)
    return image.mode, image.size, image.tobytes()


@pytest.mark.parametrize("options", PLAIN, ids=str)
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (17, 5), (512, 512)])
def test_the_pixels_are_those_of_pillows_plugin(options, size, draw, encode, by_plugin):
    picture = encode(draw(size), "JPEG", **options)
    assert plain_size(picture) == size
    assert found(picture) == by_plugin(picture)


def test_a_plain_picture_takes_it(draw, encode, monkeypatch):
    monkeypatch.setattr(pictures, "open_header", None)
    assert np.asarray(decode(encode(draw(), "JPEG"))).shape == (48, 64, 3)


def exif() -> bytes:
    tags = Image.Exif()
    tags[274] = 6
    return tags.tobytes()


@pytest.mark.parametrize("options", [{"exif": exif()}, {"icc_profile": b"profile"}, {"keep_rgb": True}, {"progressive": True}],
                         ids=["exif", "profile", "Adobe's segment", "progressive"])
def test_what_a_header_says_of_more_than_tables_is_left_to_pillow(options, draw, encode):
    assert plain_size(encode(draw(), "JPEG", **options)) is None


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode, draw, encode):
    assert plain_size(encode(draw().convert(mode), "JPEG")) is None


@pytest.mark.parametrize("picture", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(90),
                                     b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_000, b"\xff\xd8" + b"\xff\xfe\x00\x00" * 1000])
def test_what_is_no_whole_header_has_no_size(picture):
    assert plain_size(picture) is None


def test_a_second_frame_is_left_to_pillow(draw, encode):
    """Whose size is believed must be whose pixels are decoded."""
    picture = encode(draw(), "JPEG")
    frame = picture[picture.index(b"\xff\xc0"):][:19]
    at = picture.index(b"\xff\xda")
    assert plain_size(picture[:at] + frame + picture[at:]) is None


@pytest.mark.parametrize("content", [b"JFIF", b"JFIF\0\1", b"JFIF\0\1\1\0\0\1"])
def test_a_short_jfif_segment_ends_as_it_does_with_pillows_plugin(content, draw, encode, by_plugin):
    picture = encode(draw(), "JPEG")
    rest = picture[4 + int.from_bytes(picture[4:6], "big"):]
    short = b"\xff\xd8\xff\xe0" + (len(content) + 2).to_bytes(2, "big") + content + rest
    assert found(short) == by_plugin(short)


@pytest.mark.parametrize("size", [(0, 48), (64, 0)])
def test_a_frame_without_pixels_has_no_size(size, draw, encode):
    picture = bytearray(encode(draw(), "JPEG"))
    at = picture.index(b"\xff\xc0") + 5
    picture[at:at + 4] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    assert plain_size(bytes(picture)) is None


def test_limits_hold(draw, encode):
    with pytest.raises(TooLarge, match="64 x 48"):
        decode(encode(draw(), "JPEG"), Limits(max_pixels=1000))
    with pytest.raises(TooLarge, match="bytes"):
        decode(encode(draw(), "JPEG"), Limits(max_bytes=100))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(data=st.data())
def test_what_is_damaged_ends_as_it_does_with_pillows_plugin(data, draw, encode, by_plugin):
    options = data.draw(st.sampled_from((*PLAIN, {"progressive": True})))
    picture = bytearray(encode(draw((40, 24)), "JPEG", **options))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(picture) - 1), st.integers(0, 255)), max_size=4)):
        picture[at] = value
    end = data.draw(st.one_of(st.none(), st.integers(0, len(picture))))
    damaged = bytes(picture[:end])
    assert found(damaged) == by_plugin(damaged)
