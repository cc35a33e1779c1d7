import shutil

import pytest


@pytest.fixture
def bundle(fast_bundle, make_bundle, tmp_path):
    """A bundle that holds no graph for this machine."""
    return make_bundle(tmp_path / "models")


def test_the_new_version_is_told_with_what_it_is_for_and_what_it_costs(shutterless, bundle):
    done = shutterless("optimise", bundle)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"answers bit for bit like model.onnx" in done.stdout
    assert b"colours/2: 0.0 MB more than version 1" in done.stdout
    assert b"colours/2 is whole" in shutterless("check", bundle.with_name("2")).stdout


def test_a_damaged_bundle_is_not_built_upon(shutterless, fast_bundle, tmp_path):
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"more")
    done = shutterless("optimise", folder, "--version", "2")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"shutterless: model.onnx: expected")
