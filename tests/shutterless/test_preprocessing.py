"""Bit for bit torchvision's Resize, CenterCrop and PILToTensor; and safe where those are not."""

import numpy as np
import pytest
from PIL import Image

from shutterless.errors import BadPicture
from shutterless.manifests import InputSpec
from shutterless.preprocessing import to_pixels

SIZES = [(64, 64), (65, 64), (63, 47), (47, 63), (640, 480), (333, 500), (31, 200), (200, 31), (16, 16), (5, 90),
         (1, 1), (1, 40), (40, 1), (3, 2), (97, 96), (96, 97)]
SPECS = [InputSpec(size=64), InputSpec(size=37), InputSpec(size=64, resize="shorter side", crop=64),
         InputSpec(size=73, resize="shorter side", crop=64), InputSpec(size=40, resize="shorter side", crop=64),
         InputSpec(size=41, resize="shorter side", crop=64), InputSpec(size=1, resize="none", crop=64),
         InputSpec(size=1, resize="none", crop=31), InputSpec(size=64, crop=49)]


def interpolated(spec: InputSpec, interpolation: str) -> InputSpec:
    return InputSpec(size=spec.size, resize=spec.resize, crop=spec.crop, interpolation=interpolation)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.resize} {s.size} crop {s.crop}")
def test_equals_torchvision_bit_for_bit(spec, interpolation, draw):
    from torchvision import transforms

    steps = []
    if spec.resize != "none":
        size = spec.size if spec.resize == "shorter side" else (spec.size, spec.size)
        steps.append(transforms.Resize(size, transforms.InterpolationMode(interpolation)))
    if spec.crop is not None:
        steps.append(transforms.CenterCrop(spec.crop))
    reference = transforms.Compose([*steps, transforms.PILToTensor()])
    for size in SIZES:
        picture = draw(size)
        expected = reference(picture).permute(1, 2, 0).numpy()
        got = to_pixels(picture, interpolated(spec, interpolation))
        assert np.array_equal(got, expected), f"{size}: largest difference {np.abs(got.astype(int) - expected).max()}"


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.resize} {s.size} crop {s.crop}")
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_picture_becomes_the_square_that_the_network_sees(spec, size, draw):
    pixels = to_pixels(draw(size), spec)
    assert (pixels.shape, pixels.dtype) == ((spec.side, spec.side, 3), np.uint8)


def test_a_picture_of_the_right_size_is_not_touched(draw):
    assert np.array_equal(to_pixels(draw((64, 64)), InputSpec(size=64)), draw((64, 64)))


def test_what_is_too_small_for_the_crop_gets_a_black_border():
    pixels = to_pixels(Image.new("RGB", (2, 3), "white"), InputSpec(size=1, resize="none", crop=5))
    assert pixels[..., 0].tolist() == [[0] * 5, [0, 255, 255, 0, 0], [0, 255, 255, 0, 0], [0, 255, 255, 0, 0], [0] * 5]


@pytest.mark.parametrize("size", [(1, 16_384), (16_384, 1)])
def test_a_line_that_would_grow_to_gigabytes_is_refused_with_a_remedy(size):
    with pytest.raises(BadPicture, match="Crop it"):
        to_pixels(Image.new("RGB", size), InputSpec(size=224, resize="shorter side", crop=224))
