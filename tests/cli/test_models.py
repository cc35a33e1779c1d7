import json

import pytest


@pytest.fixture
def two(make_bundle, tmp_path):
    """A models folder with a measured bundle of two versions, and another."""
    folder = tmp_path / "two"
    share = {"value": 0.987651, "low": 0.98, "high": 0.9922, "n": 1458}
    make_bundle(folder, name="land", version="9")
    make_bundle(folder, name="land", version="10", precision="int8", report={"accuracy": {"int8": share}})
    make_bundle(folder, name="roofs", report={"accuracy": "good"})
    return folder


def test_the_newest_version_of_each_is_listed_with_what_was_measured(shutterless, two):
    done = shutterless("models", SHUTTERLESS_MODELS_DIR=str(two))
    assert (done.returncode, done.stderr) == (0, b"")
    head, _, land, roofs = done.stdout.decode().strip().splitlines()
    assert head.split() == ["name", "version", "task", "precision", "size", "accuracy", "signed", "sha256"]
    assert land.split()[:6] == ["land", "10", "classify", "int8", "0.0", "MB"]
    assert "98.77 % (98.00 % to 99.22 %, n = 1458)" in land
    assert roofs.split()[:2] == ["roofs", "1"]


def test_json_is_a_manifest_a_line_with_the_digest_that_predictions_bear(shutterless, two, pictures):
    place = {"SHUTTERLESS_MODELS_DIR": str(two)}
    land, roofs = map(json.loads, shutterless("models", "--json", **place).stdout.splitlines())
    assert (land["name"], land["version"], land["labels"]) == ("land", "10", ["red", "green", "blue"])
    answer = json.loads(shutterless("predict", "--json", "--model", "land", pictures / "red.png", **place).stdout)
    assert answer["model"]["sha256"] == land["sha256"] != roofs["sha256"]


def test_a_broken_bundle_is_named_and_the_others_are_listed(shutterless, two):
    (two / "roofs" / "1" / "model.onnx").write_bytes(b"x")
    done = shutterless("models", SHUTTERLESS_MODELS_DIR=str(two))
    assert done.returncode == 1
    assert done.stderr.decode().startswith("roofs/1: model.onnx: expected")
    assert b"land" in done.stdout
    assert b"roofs" not in done.stdout


def test_no_bundle_at_all_gives_a_sentence(shutterless, tmp_path):
    done = shutterless("models", SHUTTERLESS_MODELS_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"There is no model bundle" in done.stderr
