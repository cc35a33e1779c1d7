"""What a viewer would show, for every format and kind of sample; and only BadPicture for everything else."""

import ctypes
import io
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile, TiffImagePlugin

from shutterless.errors import BadPicture, TooLarge, UnsupportedPicture
from shutterless.pictures import Limits, decode, reading

LOSSLESS = ("PNG", "BMP", "TIFF")
ALL = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF")
WHITE = (255, 255, 255)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand: Pillow does not write 16 bits a channel, nor grey of 2 or 4 bits with a transparent value."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows))
            + chunk(b"IEND", b""))


def tiff(order: str, samples: np.ndarray, **tags: int) -> bytes:
    """An uncompressed TIFF by hand, in either byte order: samples uint16 of shape (rows, columns[, channels])."""
    rows, columns, channels = (*samples.shape, 1)[:3]
    content = samples.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    entries = {256: columns, 257: rows, 258: 16, 259: 1, 262: 1 if channels == 1 else 2, 273: 200, 277: channels,
               278: rows, 279: len(content), **({338: 2} if channels == 4 else {}),
               **{int(name[1:]): value for name, value in tags.items()}}
    directory = b""
    for tag, value in sorted(entries.items()):
        if tag == 258 and channels > 1:
            directory += struct.pack(f"{order}HHII", tag, 3, channels, 190)
        else:
            directory += struct.pack(f"{order}HHIHxx", tag, 3, 1, value)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    return (head + directory + bytes(4)).ljust(190, b"\0") + bits.ljust(10, b"\0") + content


# Formats

@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats_come_back_as_drawn(format, draw, encode):
    assert np.array_equal(decode(encode(draw(), format)), draw())


@pytest.mark.parametrize("format", ["JPEG", "WebP"])
def test_lossy_formats_come_back_nearly_as_drawn(format, draw, encode):
    difference = np.asarray(decode(encode(draw(), format, quality=95)), int) - np.asarray(draw(), int)
    assert np.abs(difference).mean() < 12


@pytest.mark.parametrize("format", ALL)
def test_the_result_is_rgb_of_the_same_size(format, draw, encode):
    image = decode(encode(draw((33, 17)), format))
    assert (image.mode, image.size) == ("RGB", (33, 17))


def test_a_jpeg_decodes_to_the_very_pixels_of_pillow(draw, encode):
    picture = encode(draw(), "JPEG")
    assert np.array_equal(decode(picture), Image.open(io.BytesIO(picture)))


@pytest.mark.parametrize("format", ["GIF", "WebP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format, encode):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if format == "WebP" else {}
    assert decode(encode(red, format, save_all=True, append_images=[blue], **options)).getpixel((4, 4)) == (255, 0, 0)


def test_a_phones_picture_of_several_frames_is_read_as_jpeg(draw, encode):
    picture = encode(draw(), "MPO", save_all=True, append_images=[draw(seed=1)])
    assert np.array_equal(decode(picture), decode(encode(draw(), "JPEG")))


# Upright

@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP", "TIFF"])
def test_exif_orientation_is_applied_exactly_once(format, orientation, draw, encode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WebP" else {}
    stored = draw((48, 32))
    shown = {1: stored, 2: stored.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 3: stored.rotate(180),
             4: stored.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5: stored.transpose(Image.Transpose.TRANSPOSE),
             6: stored.rotate(-90, expand=True), 7: stored.transpose(Image.Transpose.TRANSVERSE),
             8: stored.rotate(90, expand=True)}[orientation]
    got = decode(encode(stored, format, exif=exif, **options))
    assert got.size == shown.size
    assert np.abs(np.asarray(got, int) - np.asarray(shown, int)).mean() < 2


def test_a_broken_exif_block_does_not_hide_the_picture(draw, encode):
    picture = encode(draw(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert decode(picture).size == (64, 48)


def test_the_exif_of_a_jpeg_is_never_parsed_by_pillow(draw, encode):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    picture = encode(draw(), "JPEG", exif=exif)
    code = ("import sys; from shutterless.pictures import decode; "
            "print(decode(sys.stdin.buffer.read()).size, 'PIL.TiffImagePlugin' in sys.modules)")
    shown = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True).stdout
    assert shown.split(b"\n")[0].strip() == b"(48, 64) False"


# Kinds of sample

@pytest.mark.parametrize(("mode", "format"), [("1", "PNG"), ("1", "TIFF"), ("1", "BMP"), ("L", "JPEG"), ("L", "PNG"),
                                              ("P", "PNG"), ("P", "GIF"), ("P", "BMP"), ("CMYK", "TIFF")])
def test_grey_palette_one_bit_and_cmyk_become_the_same_colours(mode, format, draw, encode):
    drawn = draw().convert(mode)
    options = {"quality": 100} if format == "JPEG" else {}
    difference = np.asarray(decode(encode(drawn, format, **options)), int) - np.asarray(drawn.convert("RGB"), int)
    assert np.abs(difference).max() <= (2 if format == "JPEG" else 0)


def test_cmyk_and_ycck_jpegs_are_inverted_as_adobe_stores_them(encode):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red ink
    picture = encode(cmyk, "JPEG", quality=100)
    assert b"Adobe" in picture
    assert np.abs(np.subtract(decode(picture).getpixel((8, 8)), (255, 0, 0))).max() < 6
    marker = picture.index(b"Adobe")
    ycck = picture[:marker + 11] + b"\2" + picture[marker + 12:]  # says: the first three channels are YCbCr
    with Image.open(io.BytesIO(ycck)) as image:
        assert np.array_equal(decode(ycck), image.convert("RGB"))
    assert not np.array_equal(decode(ycck), decode(picture))


@pytest.mark.parametrize("format", ["PNG", "WebP", "TIFF"])
@pytest.mark.parametrize(("alpha", "shown"), [(0, WHITE), (255, (200, 0, 100)), (51, (244, 204, 224))])
def test_alpha_lets_white_shine_through(format, alpha, shown, encode):
    image = Image.new("RGBA", (8, 8), (200, 0, 100, alpha))
    options = {"lossless": True, "exact": True} if format == "WebP" else {}
    assert np.abs(np.subtract(decode(encode(image, format, **options)).getpixel((4, 4)), shown)).max() <= 1


def test_grey_with_alpha_lets_white_shine_through(encode):
    assert decode(encode(Image.new("LA", (8, 8), (0, 51)), "PNG")).getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(format, encode):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert decode(encode(image, format, transparency=1)).getpixel((4, 4)) == WHITE
    assert decode(encode(image, format, transparency=0)).getpixel((4, 4)) == (10, 20, 30)


def test_a_palette_with_alpha_per_entry_is_blended(encode):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 0, 0, 0])
    assert decode(encode(image, "PNG", transparency=bytes([255, 51]))).getpixel((4, 4)) == (204, 204, 204)


@pytest.mark.parametrize(("bits", "row", "value", "shown"), [
    (1, 0b01000000, 1, [0, 255]), (2, 0b00010000, 1, [0, 255]), (4, 0x09, 9, [0, 255]), (2, 0b00010000, 2, [0, 85]),
    (4, 0x09, 8, [0, 153])])
def test_a_transparent_grey_value_is_named_in_the_files_own_depth(bits, row, value, shown):
    picture = png(2, 1, bits, 0, bytes([0, row]), chunk(b"tRNS", struct.pack(">H", value)))
    assert np.asarray(decode(picture))[0, :, 0].tolist() == shown


def test_a_transparent_value_of_16_bits_is_white():
    grey = png(2, 1, 16, 0, b"\0" + struct.pack(">2H", 0x1234, 0x1235), chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert np.asarray(decode(grey))[0].tolist() == [[255] * 3, [0x12] * 3]
    rgb = png(2, 1, 16, 2, b"\0" + struct.pack(">6H", *[0x1234] * 3, *[0x5678] * 3),
              chunk(b"tRNS", struct.pack(">3H", *[0x1234] * 3)))
    assert np.asarray(decode(rgb))[0].tolist() == [[255] * 3, [0x56] * 3]


GREY_16 = np.array([[0, 255, 256, 0x1234], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)


@pytest.mark.parametrize("picture", [
    pytest.param(lambda: png(4, 2, 16, 0, b"".join(b"\0" + row.astype(">u2").tobytes() for row in GREY_16)), id="PNG"),
    pytest.param(lambda: tiff("<", GREY_16), id="TIFF little-endian"),
    pytest.param(lambda: tiff(">", GREY_16), id="TIFF big-endian"),
    pytest.param(lambda: _saved(Image.fromarray(GREY_16), compression="tiff_adobe_deflate"), id="TIFF compressed")])
def test_16_bit_grey_is_scaled_and_not_clipped(picture):
    assert np.array_equal(np.asarray(decode(picture()))[..., 1], GREY_16 >> 8)


def _saved(image, **options):
    stream = io.BytesIO()
    image.save(stream, "TIFF", **options)
    return stream.getvalue()


def test_16_bit_grey_where_zero_is_white_is_turned_round():
    assert np.array_equal(np.asarray(decode(tiff("<", GREY_16, t262=0)))[..., 0], 255 - (GREY_16 >> 8))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_a_channel_keep_the_high_byte(order):
    rgb = np.arange(24, dtype=np.uint16).reshape(2, 4, 3) * 2700
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    assert np.array_equal(decode(tiff(order, rgb)), rgb >> 8)
    assert np.array_equal(decode(png(4, 2, 16, 2, rows)), rgb >> 8)


def test_16_bits_a_channel_with_alpha_lets_white_shine_through():
    rgba = np.array([[[0, 0, 0, 0], [0x1234, 0x5678, 0x9ABC, 0xFFFF]]], np.uint16)
    for picture in (tiff("<", rgba), tiff(">", rgba), png(2, 1, 16, 6, b"\0" + rgba.astype(">u2").tobytes())):
        assert np.asarray(decode(picture))[0].tolist() == [[255] * 3, [0x12, 0x56, 0x9A]]


def test_tall_16_bit_pictures_are_scaled_strip_by_strip(encode):
    samples = np.random.default_rng(0).integers(0, 65536, (1500, 1001), np.uint16)
    assert np.array_equal(np.asarray(decode(encode(Image.fromarray(samples), "PNG")))[..., 0], samples >> 8)


@pytest.mark.parametrize("image", [Image.new("I", (4, 4)), Image.new("F", (4, 4)),
                                   Image.new("RGB", (4, 4)).convert("LAB")], ids=lambda i: i.mode)
def test_samples_that_no_viewer_scales_alike_are_refused_with_a_remedy(image, encode):
    with pytest.raises(UnsupportedPicture, match="Convert the picture to 8-bit RGB"):
        decode(encode(image, "TIFF"))


def test_a_colour_profile_is_not_in_the_way(draw, encode):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(encode(draw(), "PNG", icc_profile=profile)), draw())


# Limits

def test_too_many_bytes_are_refused_before_anything_is_read():
    with pytest.raises(TooLarge, match="Expected at most 10 bytes, got 11"):
        decode(b"\0" * 11, Limits(max_bytes=10))


def test_the_limits_are_inclusive(draw, encode):
    picture = encode(draw((10, 4)), "PNG")
    decode(picture, Limits(max_bytes=len(picture), max_pixels=40, max_side=10))


@pytest.mark.parametrize("limits", [Limits(max_pixels=39), Limits(max_side=9)])
@pytest.mark.parametrize("format", ALL)
def test_too_many_pixels_are_refused(format, limits, draw, encode):
    with pytest.raises(TooLarge, match="10 x 4"):
        decode(encode(draw((10, 4)), format), limits)


@pytest.mark.parametrize("side", [16_385, 20_000, 60_000])
def test_a_bomb_is_refused_by_its_header(side):
    with pytest.raises(TooLarge):
        decode(png(side, side, 8, 2, b""))


def test_a_tiff_of_a_million_tags_values_is_refused():
    offsets = np.arange(1_000_000, dtype="<u4").tobytes()
    entries = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (322, 4, 1, 1), (323, 4, 1, 1),
               (324, 4, 1_000_000, 100)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(BadPicture, match="65,536 values"):
        decode(head.ljust(100, b"\0") + offsets)


def test_a_tiff_of_one_pixel_in_a_huge_tile_is_refused():
    entries = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (322, 4, 1, 30_000),
               (323, 4, 1, 30_000), (324, 4, 1, 140), (325, 4, 1, 10)]
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    with pytest.raises(BadPicture, match="30,000 x 30,000"):
        decode(head.ljust(140, b"\0") + zlib.compress(bytes(1000)))


def test_a_jpeg_of_very_many_empty_segments_is_refused(draw, encode):
    picture = encode(draw(), "JPEG")
    with pytest.raises(BadPicture, match="tiny pieces"):
        decode(picture[:2] + b"\xff\xe5\0\2" * 300_000 + picture[2:])


def test_a_jpeg_of_very_many_scans_is_refused_before_any_is_decoded(draw, encode):
    picture = encode(draw((64, 64)), "JPEG", progressive=True)
    last = picture[picture.rindex(b"\xff\xda"):-2]
    assert decode(picture[:-2] + 50 * last + picture[-2:]).size == (64, 64)
    with pytest.raises(BadPicture, match="100 scans"):
        decode(picture[:-2] + 100 * last + picture[-2:])


def test_a_baseline_jpeg_of_very_many_scans_is_refused_too(draw, encode):
    picture = encode(draw((64, 64)), "JPEG")
    scans = b"".join(b"\xff\xda\0\x08\1" + bytes([component, 0, 0, 63, 0]) for component in (1, 2, 3))
    with pytest.raises(BadPicture, match="100 scans"):
        decode(picture[:picture.index(b"\xff\xda")] + 40 * scans + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_film_behind_a_photo_is_not_taken_for_scans(options, draw, encode):
    film = 200 * b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    exif = Image.Exif()
    exif[274] = 1
    assert decode(encode(draw((64, 64)), "JPEG", exif=exif.tobytes(), **options) + film).size == (64, 64)


# Refusals

@pytest.mark.parametrize("format", ALL)
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused_with_a_remedy(format, kept, encode):
    picture = encode(Image.effect_noise((64, 64), 80).convert("RGB"), format)
    with pytest.raises(BadPicture, match=r"Expected .* got .*\. [A-Z]"):
        decode(picture[:int(len(picture) * kept)])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(BadPicture, match=r"Expected .* got .*\. [A-Z]"):
        decode(content)


def test_the_message_carries_no_text_of_another_exception(draw, encode):
    with pytest.raises(BadPicture) as caught:
        decode(encode(draw(), "PNG")[:200])
    assert caught.value.__cause__ is not None
    assert str(caught.value.__cause__) not in str(caught.value)


def _seeds() -> list[bytes]:
    across = np.linspace(0, 255, 24).astype(np.uint8)
    drawn = Image.fromarray(np.dstack([np.tile(across, (16, 1))] * 3))
    pictures = []
    for format, mode, options in (
            ("JPEG", "RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"}), ("JPEG", "CMYK", {}),
            ("JPEG", "L", {"progressive": True}), ("PNG", "RGBA", {}), ("PNG", "P", {"transparency": 3}),
            ("PNG", "1", {}),
            ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("GIF", "P", {"transparency": 2}),
            ("GIF", "P", {"save_all": True, "append_images": [drawn.rotate(90).convert("P")]}), ("BMP", "RGB", {}),
            ("BMP", "P", {}), ("TIFF", "RGB", {}), ("TIFF", "1", {"compression": "group4"}),
            ("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "CMYK", {"compression": "tiff_lzw"}),
            ("TIFF", "LA", {"compression": "tiff_adobe_deflate"})):
        stream = io.BytesIO()
        drawn.convert(mode).save(stream, format, **options)
        pictures.append(stream.getvalue())
    return [*pictures, tiff(">", GREY_16), png(4, 2, 16, 0, b"".join(b"\0" + row.tobytes() for row in GREY_16))]


SEEDS = _seeds()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A drawn picture with bytes flipped, cut out, doubled, or followed by the tail of another one."""
    picture = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(picture) - 1, 0)))
        match draw(st.sampled_from(["flip", "flip", "set", "cut", "double", "splice", "end"])):
            case "flip" if picture:
                picture[at] ^= 1 << draw(st.integers(0, 7))
            case "set":
                picture[at:at + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"]))
            case "cut":
                del picture[at:at + draw(st.integers(1, 50))]
            case "double":
                picture[at:at] = picture[at:at + draw(st.integers(1, 50))]
            case "splice":
                picture[at:] = draw(st.sampled_from(SEEDS))[at:]
            case "end":
                del picture[at:]
    return bytes(picture)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_from_any_bytes_comes_an_rgb_picture_or_bad_picture(picture):
    try:
        image = decode(picture, Limits(max_pixels=1_000_000))
    except BadPicture:
        return
    assert image.mode == "RGB"
    image.tobytes()


# Warnings

def test_warnings_of_pillow_neither_leak_nor_refuse_a_picture(draw, encode):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = b"x" * 100
    picture = encode(draw(), "TIFF", tiffinfo=tags)
    at = picture.index(struct.pack("<HH", 700, 1))
    broken = picture[:at + 8] + struct.pack("<I", 0x00FFFFFF) + picture[at + 12:]  # the tag's content is not there
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(broken)) as image:
            image.load()
    assert caught, "the picture is meant to make Pillow warn"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(broken).size == (64, 48)
    assert not caught
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(broken).size == (64, 48)


def test_who_uses_pillow_beside_us_still_sees_its_warnings(draw, encode):
    picture = encode(draw(), "TIFF")
    decode(picture)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(io.BytesIO(png(10_000, 10_000, 1, 0, b""))):
        pass


# Many at once

def test_threads_decode_the_same_pictures_alike(draw, encode):
    pictures = [encode(draw((601, 500), seed), format) for seed, format in enumerate(ALL)]
    alone = [decode(picture).tobytes() for picture in pictures]
    got: dict[int, list[bytes]] = {}

    def all_of_them(thread):
        got[thread] = []
        for picture in pictures:
            with reading(picture) as image:
                got[thread].append(image.tobytes())

    threads = [threading.Thread(target=all_of_them, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got[i] == alone for i in range(4))


def test_four_pictures_of_40_megapixels_at_once_stay_below_one_gigabyte(encode):
    picture = encode(Image.new("RGBA", (8000, 5000), (10, 20, 30, 40)), "PNG", compress_level=1)
    code = """
import resource, sys, threading
from pathlib import Path
from shutterless.pictures import reading
picture = sys.stdin.buffer.read()
def one():
    with reading(picture) as image:
        image.getpixel((0, 0))
threads = [threading.Thread(target=one) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
peak, status = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, Path("/proc/self/status")
if status.exists():  # on Linux, ru_maxrss begins with what the parent had when it forked; VmHWM is this process alone
    peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
print(peak)
"""
    shown = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True).stdout
    assert int(shown) < 1_000_000_000


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt") or sys.platform != "linux", reason="tells glibc what to keep")
def test_a_small_picture_finds_the_memory_of_the_one_before(draw, encode):
    picture = encode(draw((640, 480)), "JPEG")
    code = """
import resource, sys
from shutterless.manifests import InputSpec
from shutterless.pictures import reading
from shutterless.preprocessing import to_pixels
picture, spec = sys.stdin.buffer.read(), InputSpec(size=224)
def one():
    with reading(picture) as image:
        to_pixels(image, spec)
for _ in range(3):
    one()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    shown = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True).stdout
    assert int(shown) < 300  # pages that the kernel had to fill; a picture of this size has 300


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit that other systems do not keep")
def test_a_picture_that_finds_no_memory_is_to_come_again(encode):
    picture = encode(Image.new("RGB", (6000, 5000)), "JPEG")
    code = """
import resource, sys
from shutterless.errors import Overloaded
from shutterless.pictures import decode
picture = sys.stdin.buffer.read()
decode(picture)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, -1))
try:
    decode(picture)
except Overloaded as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True).stdout
    assert b"Send it again later" in shown


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; the heap of other systems gives blocks back by itself")
def test_large_pictures_of_several_kinds_again_and_again_stay_below_one_gigabyte(encode, tmp_path):
    large, again = Image.new("RGBA", (6320, 6320), (10, 20, 30, 40)), Image.new("RGBA", (6320, 6320), (90, 20, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, picture in {
        "animated.webp": encode(large, "WEBP", save_all=True, append_images=[again], method=0, lossless=True, exif=exif),
        "cmyk.jpg": encode(Image.new("CMYK", (6320, 6320), (1, 2, 3, 4)), "JPEG", progressive=True, exif=exif),
    }.items():
        (tmp_path / name).write_bytes(picture)
    code = """
import sys, threading
from pathlib import Path
from shutterless.pictures import reading
pictures = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
def some(first):
    for i in range(2):
        with reading(pictures[(first + i) % len(pictures)]) as image:
            image.getpixel((0, 0))
        del image
threads = [threading.Thread(target=some, args=(i,)) for i in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""
    shown = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True).stdout
    assert int(shown) < 1_000_000_000
