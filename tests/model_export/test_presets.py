import json
from pathlib import Path

import pytest

from shutterless.manifests import InputSpec

pytestmark = pytest.mark.needs("torch")
TIMM = {"input_size": [3, 224, 224], "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1],
        "crop_pct": 0.95, "crop_mode": "center"}


def _choose(preset: str | None = None, arch: str | None = None, **typed: object):
    from model_export.presets import Preprocessing, Typed, choose

    known = Preprocessing(InputSpec(size=256, resize="shorter side", crop=224, mean=(0.4,) * 3, std=(0.2,) * 3), "a guess")
    return choose(Typed(**typed), preset, known, arch)


def _config(tmp_path: Path, content: object) -> str:
    (tmp_path / "config.json").write_text(json.dumps(content))
    return str(tmp_path / "config.json")


def test_a_weights_enum_says_it_all_without_a_download():
    found = _choose("ResNet50_Weights.IMAGENET1K_V2")
    assert found.spec == InputSpec(size=232, resize="shorter side", crop=224, mean=(0.485, 0.456, 0.406),
                                   std=(0.229, 0.224, 0.225), interpolation="bilinear")
    assert str(found) == ("shorter side to 232 px, bilinear, centre crop 224 px, mean 0.485 0.456 0.406, std 0.229 0.224 0.225 "
                          "(from ResNet50_Weights.IMAGENET1K_V2)")


def test_the_last_part_of_an_enum_s_name_is_enough_beside_the_architecture():
    assert _choose("IMAGENET1K_V1", arch="resnet50").spec.size == 256
    assert _choose("EfficientNet_V2_L_Weights.DEFAULT", arch="resnet50").spec.interpolation == "bicubic"


def test_the_enum_gives_the_pixels_that_torchvision_s_own_transform_gives(draw):
    import numpy as np
    from torchvision.models import EfficientNet_B0_Weights

    from shutterless.preprocessing import to_pixels

    picture, spec = draw((300, 260)), _choose("EfficientNet_B0_Weights.IMAGENET1K_V1").spec
    expected = EfficientNet_B0_Weights.IMAGENET1K_V1.transforms()(picture).numpy()
    got = (to_pixels(picture, spec).transpose(2, 0, 1) / 255 - np.reshape(spec.mean, (3, 1, 1))) / np.reshape(spec.std, (3, 1, 1))
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("nested", [False, True], ids=["timm's own", "Hugging Face's"])
def test_a_timm_config_says_it_all(tmp_path: Path, nested: bool):
    content = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": TIMM} if nested else TIMM
    found = _choose(_config(tmp_path, content))
    assert found.spec == InputSpec(size=235, resize="shorter side", crop=224, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1),
                                   interpolation="bicubic")
    assert found.origin == "config.json, a timm config"


def test_timm_s_squash_and_its_defaults(tmp_path: Path):
    squashed = _choose(_config(tmp_path, TIMM | {"crop_mode": "squash", "crop_pct": 1.0})).spec
    assert (squashed.resize, squashed.size, squashed.crop) == ("squash", 224, 224)
    bare = _choose(_config(tmp_path, {key: TIMM[key] for key in ("input_size", "mean", "std")})).spec
    assert (bare.resize, bare.size, bare.crop, bare.interpolation) == ("shorter side", 256, 224, "bicubic")


@pytest.mark.parametrize(("content", "words"), [
    (TIMM | {"crop_mode": "border"}, "crop_mode border"), (TIMM | {"input_size": [1, 28, 28]}, "input_size 1 x 28 x 28"),
    (TIMM | {"input_size": [3, 224, 192]}, "3 x 224 x 192"), (TIMM | {"interpolation": "random"}, "interpolation random"),
    ({"mean": [0, 0, 0]}, "has no input_size"), (TIMM | {"std": [0, 1, 1]}, "three numbers above 0"),
    ([1, 2], "is not a timm config"), (TIMM | {"input_size": 224}, "is not a timm config")])
def test_a_config_that_serving_cannot_follow_is_refused_by_field(tmp_path: Path, content: object, words: str):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=words):
        _choose(_config(tmp_path, content))


def test_what_is_neither_a_file_nor_an_enum_is_refused():
    from model_export.errors import ExportError

    for preset in ("config.json", "ResNet50_Weights.V9", "V9", "No_Weights.DEFAULT"):
        with pytest.raises(ExportError, match="neither a file nor one of torchvision's weights"):
            _choose(preset, arch="resnet50")


def test_weights_of_a_detector_are_not_a_classifier_s():
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match="not prepared like a classifier's input"):
        _choose("FCN_ResNet50_Weights.DEFAULT")


def test_two_ways_at_once_are_refused_by_name():
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=r"says it all, and --size, --mean too"):
        _choose("ResNet50_Weights.DEFAULT", size=64, mean=(0.5,) * 3, std=None)


@pytest.mark.parametrize(("typed", "expected"), [
    ({}, ("shorter side", 256, 224)),
    ({"interpolation": "bicubic"}, ("shorter side", 256, 224)),
    ({"size": 64}, ("squash", 64, None)),
    ({"size": 64, "resize": "shorter side"}, ("shorter side", 64, 64)),
    ({"size": 64, "resize": "none"}, ("none", 64, 64)),
    ({"size": 256, "crop": 200}, ("shorter side", 256, 200)),
    ({"size": 80, "resize": "squash", "crop": 64}, ("squash", 80, 64))])
def test_a_typed_size_resize_or_crop_replaces_all_three(typed: dict, expected: tuple):
    spec = _choose(**typed).spec
    assert (spec.resize, spec.size, spec.crop) == expected


def test_what_was_typed_and_what_was_not_can_be_told_apart():
    assert _choose(size=64, mean=(0.5,) * 3, std=(0.5,) * 3).origin == "--size, --mean, --std, the rest from a guess"
    assert _choose().origin == "a guess"


@pytest.mark.parametrize(("typed", "words"), [
    ({"mean": (0.5,) * 3}, "belong together"), ({"size": 64, "crop": 80}, "black border"),
    ({"size": 0, "resize": "squash"}, "size: expected an integer from 1"),
    ({"size": 5000}, "size: expected an integer from 1 to 4096"), ({"mean": (0,) * 3, "std": (0,) * 3}, "std: expected")])
def test_options_that_do_not_fit_are_refused(typed: dict, words: str):
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=words):
        _choose(**typed)
