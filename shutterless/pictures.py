"""Bytes -> picture: limit, decode, RGB, upright. Nothing that the bytes say of themselves is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from shutterless.errors import TooLarge, UnsupportedPicture
from shutterless.exif import orientation
from shutterless.formats import PNG, PictureFormat, refusal, sniff
from shutterless.jpeg import plain_size
from shutterless.pillow import open_header, refusing
from shutterless.room import Room, return_freed_blocks

__all__ = ["Limits", "PictureFormat", "decode", "reading", "sniff"]

ROOM = Room(40_000_000)  # a pixel costs up to 20 bytes on its way (WebP with alpha), so 0.8 GB at worst
SMALL_PIXELS = 512 * 512  # decoded in milliseconds: never waits for room
STRIP_PIXELS = 1_000_000  # 16-bit pictures are scaled so many at a time
WHITE = (255, 255, 255)
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
TO_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
              5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
              8: Image.Transpose.ROTATE_90}

return_freed_blocks()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a picture may cost. All are checked before a pixel is decoded."""

    max_bytes: int = 20_000_000
    max_pixels: int = 40_000_000
    max_side: int = 16_384  # pixels


LIMITS = Limits()


def decode(picture: bytes, limits: Limits = LIMITS) -> Image.Image:
    """The picture as a viewer shows it: RGB, upright by EXIF, alpha over white, the first frame.

    Raises BadPicture (TooLarge, UnsupportedPicture) with what was expected, what came and what to do; nothing else,
    whatever the bytes. Who decodes in many threads uses `reading`, which bounds the memory of all.
    """
    with reading(picture, limits) as rgb:
        return rgb


@contextmanager
def reading(picture: bytes, limits: Limits = LIMITS) -> Iterator[Image.Image]:
    """`decode`, with room in memory held until the block ends: large pictures wait for each other.

    Do not decode another picture inside of the block: it could wait for the room that this one holds.
    """
    if len(picture) > limits.max_bytes:
        raise TooLarge(f"Expected at most {limits.max_bytes:,} bytes, got {len(picture):,}. "
                       "Save the picture smaller or with more compression.")
    plain = _small_plain_jpeg(picture, limits)
    if plain is not None:
        yield plain
        return
    found = sniff(picture)
    if found is None:
        raise refusal(picture)
    with refusing(found):
        image = open_header(picture, found)
    _check_size(image.size, limits)
    pixels = image.width * image.height
    with ROOM.taken(pixels) if pixels > SMALL_PIXELS else nullcontext():
        with refusing(found):
            rgb = _load(image, _transparency_scale(picture, found))
        if rgb is not image:
            image.close()
        yield rgb


def _small_plain_jpeg(picture: bytes, limits: Limits) -> Image.Image | None:
    """What Pillow's plugin would give, in half the time, by the same decoder. None for all that is not small, plain and whole:
    the plugin looks at it, and says what is wrong with it."""
    size = plain_size(picture)
    if size is None or size[0] * size[1] > SMALL_PIXELS:
        return None
    _check_size(size, limits)
    try:
        return Image.frombytes("RGB", size, picture, "jpeg", "RGB", "")
    except (ValueError, OSError, MemoryError):
        return None


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    too_long, too_many = max(size) > limits.max_side, width * height > limits.max_pixels
    if too_long or too_many:
        most = f"{limits.max_side:,} pixels a side" if too_long else f"{limits.max_pixels:,} pixels"
        raise TooLarge(f"Expected at most {most}, got {width:,} x {height:,}. Make the picture smaller.")


def _load(image: ImageFile, transparency_scale: float) -> Image.Image:
    """Decode all pixels; returns the same object where it is RGB and upright already."""
    image.load()
    vars(image).pop("_decoder", None)  # libwebp's, with two canvases of 4 bytes a pixel
    rgb = _to_rgb(image, transparency_scale)
    turn = TO_UPRIGHT.get(orientation(image.info.get("exif") or b""))  # Pillow turns TIFF itself
    return rgb.transpose(turn) if turn is not None and image.format != "TIFF" else rgb


def _to_rgb(image: ImageFile, transparency_scale: float) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode not in MODES:
        got = {"F": "floating-point numbers", "I": "signed or 32-bit integers"}.get(image.mode, f"{image.mode} colours")
        raise UnsupportedPicture(f"Expected samples of 1 to 16 bits in grey, RGB, CMYK or a palette, got {got}. "
                                 "Convert the picture to 8-bit RGB.")
    if image.has_transparency_data:
        return _over_white(image, transparency_scale)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: ImageFile, transparency_scale: float) -> Image.Image:
    colour = image.info.get("transparency")
    if isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = int(colour * transparency_scale)
    elif isinstance(colour, tuple):
        image.info["transparency"] = tuple(int(part * transparency_scale) for part in colour)
    rgba: Image.Image = image.convert("LA") if image.mode == "La" else image
    if rgba.mode != "RGBA":
        rgba = rgba.convert("RGBA")
    white = Image.new("RGB", image.size, WHITE)
    white.paste(rgba, mask=rgba)
    return white


def _transparency_scale(picture: bytes, found: PictureFormat) -> float:
    """PNG names the one transparent colour in the file's own depth, where Pillow has scaled the pixels to 8 bits."""
    return {2: 85, 4: 17, 16: 1 / 256}.get(picture[24], 1) if found is PNG else 1


def _from_16_bits(image: ImageFile) -> Image.Image:
    """Grey of 9 to 16 bits a sample, in either byte order -> RGB. Pillow would clip at 255; a viewer scales."""
    tags = getattr(image, "tag_v2", {})
    bits, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    clear = image.info.get("transparency")
    rgb = Image.new("RGB", image.size)
    rows = max(STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        samples = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        grey = (samples >> (bits - 8)).astype(np.uint8)
        if white_is_zero:
            grey = 255 - grey
        if clear is not None:
            grey[samples == clear] = 255
        rgb.paste(Image.fromarray(grey), (0, top))
    return rgb
