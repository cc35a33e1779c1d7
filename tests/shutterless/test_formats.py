import pytest

from shutterless.errors import BadPicture, UnsupportedPicture
from shutterless.formats import FORMATS, refusal, sniff


@pytest.mark.parametrize("expected", FORMATS, ids=lambda f: f.name)
def test_each_format_is_known_by_its_first_bytes(expected, draw, encode):
    assert sniff(encode(draw(), expected.name)) is expected


@pytest.mark.parametrize("big", [False, True])
def test_both_byte_orders_of_tiff_and_bigtiff_are_known(big):
    for start in ((b"II+\0", b"MM\0+") if big else (b"II*\0", b"MM\0*")):
        assert sniff(start + bytes(20)).name == "TIFF"


def test_a_phones_picture_of_several_frames_is_a_jpeg(draw, encode):
    assert sniff(encode(draw(), "MPO", save_all=True, append_images=[draw(seed=1)])).name == "JPEG"


@pytest.mark.parametrize("text", [b"", b"BM", b"BMW is a car maker of Munich", b"RIFF____WAVEfmt ", b"<html></html>"])
def test_what_is_no_picture_is_not_taken_for_one(text):
    assert sniff(text) is None
    assert type(refusal(text)) is BadPicture


@pytest.mark.parametrize(("start", "name"), [
    (b"\0\0\0\x1cftypavif", "AVIF"), (b"\0\0\0\x18ftypheic", "HEIC"), (b"%PDF-1.7", "PDF"), (b"8BPS\0\1", "Photoshop"),
    (b"\0\0\1\0\1\0", "ICO"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    (b'<?xml version="1.0"?>\n<svg width="9">', "SVG"), (b"\xef\xbb\xbf\n<svg>", "SVG")])
def test_a_picture_of_another_format_is_called_by_its_name(start, name):
    error = refusal(start)
    assert type(error) is UnsupportedPicture
    assert f"got {name}" in str(error)
    assert "JPEG, PNG, WebP, GIF, BMP or TIFF" in str(error)
