import hashlib
import os
import shutil

import pytest

from shutterless.bundles import find_bundle, list_bundles, read_bundle
from shutterless.errors import BadBundle, NotFound


@pytest.fixture
def copy(bundle_folder, tmp_path):
    """A bundle that may be damaged."""
    return shutil.copytree(bundle_folder, tmp_path / "colours" / "1")


def test_reads_a_bundle_and_pins_it_by_its_manifests_digest(bundle_folder):
    bundle = read_bundle(bundle_folder)
    assert bundle.manifest.labels == ("red", "green", "blue")
    assert bundle.sha256 == hashlib.sha256((bundle_folder / "manifest.json").read_bytes()).hexdigest()


def test_a_changed_byte_is_found(copy):
    model = bytearray((copy / "model.onnx").read_bytes())
    model[-1] ^= 1
    (copy / "model.onnx").write_bytes(model)
    with pytest.raises(BadBundle, match=r"model\.onnx: expected sha256 \w{64}, got \w{64}\. Download"):
        read_bundle(copy)


def test_a_file_cut_short_is_found_by_its_length(copy):
    os.truncate(copy / "model.onnx", 10)
    with pytest.raises(BadBundle, match=r"model\.onnx: expected [\d,]+ bytes, got 10\. Download"):
        read_bundle(copy)


def test_a_missing_file_is_named(copy):
    (copy / "model.onnx").unlink()
    with pytest.raises(BadBundle, match=r"model\.onnx: expected a file .*, got none\. Download"):
        read_bundle(copy)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BadBundle, match=r"manifest\.json.*Give the folder"):
        read_bundle(tmp_path)


@pytest.fixture
def models(tmp_path, make_bundle):
    for name, version in (("tiles", "9"), ("tiles", "10"), ("tiles", "draft"), ("roads", "1.9"), ("roads", "1.10")):
        make_bundle(tmp_path, name=name, version=version)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("models")
    return tmp_path


def test_a_name_means_its_highest_version_by_number(models):
    assert find_bundle("tiles", models) == models / "tiles" / "10"
    assert find_bundle("roads", models) == models / "roads" / "1.10"


def test_a_version_may_be_asked_for(models):
    assert find_bundle("tiles/9", models) == models / "tiles" / "9"
    assert find_bundle("tiles/draft", models) == models / "tiles" / "draft"


def test_a_folder_with_a_manifest_may_be_given(models, tmp_path_factory):
    folder = str(models / "tiles" / "9")
    assert str(find_bundle(folder, tmp_path_factory.mktemp("elsewhere"))) == folder


@pytest.mark.parametrize("model", ["trees", "tiles/11", "empty", "", "/", "..", "tiles/../roads", "tiles:9", "*"])
def test_what_is_not_there_is_answered_with_what_is(model, models):
    with pytest.raises(NotFound, match=r"There are: roads/1\.10, tiles/10\. "):
        find_bundle(model, models)


def test_lists_the_newest_version_of_each_model(models, tmp_path):
    assert list_bundles(models) == [models / "roads" / "1.10", models / "tiles" / "10"]
    assert list_bundles(tmp_path / "nowhere") == []
