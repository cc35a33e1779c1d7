import hashlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("torch")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch):
    """torch's cache, in a folder of the test; nothing can be downloaded."""
    import torch

    def refuse(url: str, *arguments: object, **options: object) -> None:
        raise OSError(f"no network for {url}")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def _put(hub: Path, name: str = "resnet18-f37072fd.pth"):
    import torch
    from torchvision import models

    model = models.resnet18()
    torch.save(model.state_dict(), hub / name)
    return model.state_dict()


@pytest.mark.parametrize("weights", ["DEFAULT", "imagenet", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_weights_in_torch_s_cache_are_taken_from_there_with_labels_and_preprocessing(hub: Path, weights: str):
    from model_export.imagenet import is_published, published

    state = _put(hub)
    assert is_published(weights)
    found = published("resnet18", weights)
    assert found.state["fc.bias"].equal(state["fc.bias"])
    assert found.labels is not None
    assert (len(found.labels), found.labels[151]) == (1000, "Chihuahua")
    assert (found.preprocessing.spec.size, found.preprocessing.spec.crop) == (256, 224)
    assert found.sha256 == hashlib.sha256((hub / "resnet18-f37072fd.pth").read_bytes()).hexdigest()


def test_a_file_in_the_cache_that_is_not_the_published_one_is_said_to_be_none(hub: Path):
    from model_export.imagenet import published

    _put(hub)
    assert "resnet18-f37072fd.pth in torch's cache has them, whose digest is not the published one" in published(
        "resnet18", "DEFAULT").origin


def test_a_cached_file_that_would_run_code_does_not(hub: Path, tmp_path: Path, monkeypatch):
    import torch

    from model_export.errors import ExportError
    from model_export.imagenet import published

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"fc.bias": Evil()}, hub / "resnet18-f37072fd.pth")
    with pytest.raises(ExportError, match="Delete it"):
        published("resnet18", "DEFAULT")
    assert not (tmp_path / "touched").exists()


def test_without_the_internet_the_remedy_is_a_file(hub: Path):
    from model_export.errors import ExportError
    from model_export.imagenet import published

    with pytest.raises(ExportError, match=r"ResNet18_Weights\.IMAGENET1K_V1 .*resnet18-f37072fd\.pth.*--weights"):
        published("resnet18", "DEFAULT")


@pytest.mark.parametrize(("arch", "weights", "words"), [
    ("resnet18", "IMAGENET1K_V2", "Choose one of DEFAULT, IMAGENET1K_V1"),
    ("resnet50", "ResNet18_Weights.DEFAULT", "resnet50 has no"),
    ("efficientnet-lite2", "DEFAULT", "No ImageNet weights for efficientnet-lite2"),
    ("resnet19", "DEFAULT", "publishes no weights")])
def test_weights_that_nobody_published_are_refused_with_those_that_are(hub: Path, arch: str, weights: str, words: str):
    from model_export.errors import ExportError
    from model_export.imagenet import published

    with pytest.raises(ExportError, match=words):
        published(arch, weights)


def test_a_training_starts_from_published_weights_by_their_name(hub: Path):
    from model_export.architectures import build, start_from

    state = _put(hub)
    model = build("resnet18", 10, 64)
    assert start_from(model, "resnet18", "IMAGENET1K_V1") == ["fc.bias", "fc.weight"]
    assert model.state_dict()["conv1.weight"].equal(state["conv1.weight"])


def test_a_name_is_a_file_where_there_is_one(tmp_path: Path, monkeypatch):
    from model_export.imagenet import is_published

    monkeypatch.chdir(tmp_path)
    assert is_published("IMAGENET1K_V2")
    assert not is_published("weights.pth")
    Path("IMAGENET1K_V2").touch()
    assert not is_published("IMAGENET1K_V2")


def test_names_that_stand_twice_get_their_index_and_others_stay():
    from model_export.imagenet import categories, distinct

    assert distinct(["crane", "dog", "crane"]) == ("crane (0)", "dog", "crane (2)")
    assert len(set(categories())) == 1000


def test_the_general_classifier_is_prepared_as_it_was_trained_not_as_resnets_are():
    """Mean 0.498 and std 0.502: ImageNet's statistics would cost it 11 points."""
    from model_export.networks import Wanted, find_network

    network = find_network(Wanted(source="imagenet-lite0"))
    spec = network.preprocessing.spec
    assert (spec.mean, spec.std, spec.interpolation) == ((0.498,) * 3, (0.502,) * 3, "bicubic")
    assert (spec.resize, spec.size, spec.crop) == ("shorter side", 256, 224)
    assert network.labels is not None
    assert (network.n_outputs, network.labels[207]) == (1000, "golden retriever")
    assert network.licence is not None
    assert "Apache-2.0" in network.licence


@pytest.mark.needs("photos")
def test_the_general_classifier_calls_dogs_dogs(photos_zip: Path):
    """118 of its categories are breeds (151 to 268); of 291 photos whose captions mention a dog it names one on 80 %."""
    import csv
    import io
    import zipfile

    import numpy as np

    from model_export.networks import Wanted, find_network
    from model_export.train import predict
    from shutterless.pictures import decode
    from shutterless.preprocessing import to_pixels

    network = find_network(Wanted(source="imagenet-lite0"))
    with zipfile.ZipFile(photos_zip) as archive:
        captions: dict[str, str] = {}
        for row in csv.DictReader(io.TextIOWrapper(archive.open("captions.csv"))):
            captions[row["image"]] = captions.get(row["image"], "") + row["caption"]
        dogs = [name for name, text in captions.items() if text.count("dog") >= 3][:24]
        others = [name for name, text in captions.items() if "dog" not in text and "puppy" not in text][:24]
        photos = [decode(archive.read(f"images/{name}")) for name in dogs + others]
    pixels = np.stack([to_pixels(photo, network.preprocessing.spec) for photo in photos])
    named = predict(network.model, pixels, np.arange(48), network.preprocessing.spec).argmax(1)
    is_breed = (named >= 151) & (named <= 268)
    assert is_breed[:24].sum() >= 16
    assert is_breed[24:].sum() <= 3
