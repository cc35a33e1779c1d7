import pytest

pytestmark = pytest.mark.needs("torch")


@pytest.mark.parametrize("arch", ["efficientnet-lite0", "resnet18", "resnet50", "mobilenet_v3_small"])
def test_an_architecture_answers_one_logit_per_label(arch: str):
    import torch

    from model_export.architectures import build

    with torch.inference_mode():
        assert build(arch, 7, 64).eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_folded_padding_changes_no_value():
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from model_export.architectures import fold_padding

    torch.manual_seed(0)
    model = EfficientNet.from_name("efficientnet-lite0", num_classes=10, image_size=64).eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(pixels)
        assert torch.allclose(fold_padding(model)(pixels), before, atol=1e-5)


def test_imagenet_weights_load_strictly_and_know_a_thing_or_two():
    """The published EfficientNet-Lite0 keeps its 1,000 outputs, all of its keys are taken, and none is invented."""
    from model_export.architectures import build, start_from
    from model_export.imagenet import published

    model = build("efficientnet-lite0", 1000, 224)
    assert start_from(model, "efficientnet-lite0", "imagenet") == []
    assert model.state_dict()["_fc.bias"].equal(published("efficientnet-lite0", "imagenet").state["_fc.bias"])


def test_only_the_last_layer_keeps_fresh_values_when_labels_are_new():
    from model_export.architectures import build, start_from

    assert start_from(build("efficientnet-lite0", 10, 64), "efficientnet-lite0", "imagenet") == ["_fc.bias", "_fc.weight"]


def test_weights_of_another_architecture_are_refused(tmp_path):
    import torch

    from model_export.architectures import build, start_from
    from model_export.errors import ExportError

    torch.save(build("resnet18", 10, 64).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ExportError, match="not of this architecture"):
        start_from(build("resnet50", 10, 64), "resnet50", str(tmp_path / "other.pth"))


@pytest.mark.parametrize(("arch", "side", "words"), [
    ("resnet19", 64, "No architecture is called 'resnet19'"), ("efficientnet-lite0", 100, "multiples of 32")])
def test_an_unknown_name_or_side_is_refused(arch: str, side: int, words: str):
    from model_export.architectures import build
    from model_export.errors import ExportError

    with pytest.raises(ExportError, match=words):
        build(arch, 10, side)


def test_a_head_of_other_size_is_replaced_under_any_prefix(tmp_path):
    import torch

    from model_export.architectures import build, start_from

    state = {f"module.{key}": value for key, value in build("resnet18", 7, 64).state_dict().items()}
    torch.save(state, tmp_path / "parallel.pth")
    assert start_from(build("resnet18", 10, 64), "resnet18", str(tmp_path / "parallel.pth")) == ["fc.bias", "fc.weight"]
