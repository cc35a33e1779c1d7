"""RGB picture -> the network's pixels, bit for bit as torchvision's Resize, CenterCrop and PILToTensor do it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shutterless.errors import BadPicture
from shutterless.manifests import InputSpec

MAX_RESIZED_PIXELS = 4_000_000  # a line of 1 x 16,384 pixels would become 224 x 3,670,016

RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
              "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def to_pixels(picture: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Returns uint8 of shape (side, side, 3): rows, columns, RGB. `picture` is RGB and upright."""
    cut = center_crop(resize(picture, spec), spec.crop)
    return np.frombuffer(cut.tobytes(), np.uint8).reshape(cut.height, cut.width, 3)  # np.asarray takes twice as long


def resize(picture: Image.Image, spec: InputSpec) -> Image.Image:
    """torchvision's Resize(size) for "shorter side", Resize((size, size)) for "squash", nothing for "none".

    Raises BadPicture for a picture so narrow that its longer side would grow without bound.
    """
    if spec.resize == "none":
        return picture
    width, height = picture.size
    target = (spec.size, spec.size)
    if spec.resize == "shorter side":  # the longer side is cut, not rounded, as torchvision does
        target = ((spec.size, int(spec.size * height / width)) if width <= height
                  else (int(spec.size * width / height), spec.size))
    if target[0] * target[1] > max(MAX_RESIZED_PIXELS, 4 * spec.size**2):
        raise BadPicture(f"Expected a picture whose sides are less unequal, got {width:,} x {height:,} pixels: resized "
                         f"for this model it would be {target[0]:,} x {target[1]:,}. Crop it.")
    return picture if picture.size == target else picture.resize(target, RESAMPLING[spec.interpolation])


def center_crop(picture: Image.Image, side: int | None) -> Image.Image:
    """torchvision's CenterCrop(side): a picture that is too small gets a black border first. None takes the whole."""
    if side is None or picture.size == (side, side):
        return picture
    left, top = (_crop_start(length, side) for length in picture.size)
    return picture.crop((left, top, left + side, top + side))  # Pillow fills with black what lies outside


def _crop_start(length: int, side: int) -> int:
    """torchvision rounds half to even where it cuts, and down where it pads."""
    return round((length - side) / 2) if length >= side else -((side - length) // 2)
