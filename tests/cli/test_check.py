from pathlib import Path

import pytest


@pytest.fixture
def bundle(make_bundle, tmp_path) -> Path:
    return make_bundle(tmp_path / "mine")


@pytest.mark.parametrize("model", ["colours", "colours/1", "{folder}"])
def test_a_whole_bundle_is_told_with_its_files_and_digests(shutterless, bundle_folder, model):
    done = shutterless("check", model.format(folder=bundle_folder))
    assert (done.returncode, done.stderr) == (0, b"")
    assert "model.onnx  " in done.stdout.decode()
    assert "colours/1 is whole" in done.stdout.decode()


def test_an_altered_file_is_told_with_what_was_expected_and_found(shutterless, bundle):
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    done = shutterless("check", bundle)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("shutterless: model.onnx: expected sha256 ")


def test_a_graph_that_does_not_keep_the_manifest_s_promise_is_told(shutterless, make_bundle, tmp_path):
    folder = make_bundle(tmp_path / "wrong", labels=["red", "green"])
    done = shutterless("check", folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"as the manifest says" in done.stderr


def test_a_model_that_is_not_there_is_answered_with_those_that_are(shutterless):
    done = shutterless("check", "colors")
    assert done.returncode == 1
    assert b"colours/1" in done.stderr
