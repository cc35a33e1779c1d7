import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
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


def test_files_that_this_machine_opens_are_marked(shutterless, fast_bundle):
    done = shutterless("check", fast_bundle)
    opened = {line.split()[0]: line.endswith("opened here") for line in done.stdout.decode().splitlines()[:-1]}
    assert {name for name, here in opened.items() if not here} == {"model.onnx", "model.onnx.data"}
    assert len(opened) == 4


@pytest.mark.parametrize("suffix", ["onnx", "onnx.data"])
def test_a_file_that_no_door_opens_here_is_read_too(shutterless, fast_bundle, tmp_path, suffix):
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    (folder / f"model.{suffix}").write_bytes(b"other")
    done = shutterless("check", folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith(f"shutterless: model.{suffix}: expected")


def test_an_optimised_graph_that_answers_otherwise_than_the_portable_one_is_told(shutterless, fast_bundle, tmp_path):
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    document = json.loads((folder / "manifest.json").read_text())
    (graph,) = document["optimised"]
    weights = np.fromfile(folder / graph["weights"][0], np.float32) * np.float32(1.01)
    weights.tofile(folder / graph["weights"][0])
    document["files"][graph["weights"][0]]["sha256"] = hashlib.sha256(weights.tobytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(document))
    done = shutterless("check", folder)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"expected the answers of model.onnx, bit for bit" in done.stderr


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
