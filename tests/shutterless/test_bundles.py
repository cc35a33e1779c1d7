import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from shutterless.bundles import as_portable, find_bundle, list_bundles, read_bundle
from shutterless.errors import BadBundle, NotFound
from shutterless.hardware import this_machine


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


# A bundle with a graph that was optimised for some machines.

@pytest.fixture
def fast(fast_bundle, tmp_path):
    """One that may be damaged."""
    return shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")


def spoil(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


ELSEWHERE = replace(this_machine(), ort="1.0.0")


def test_the_optimised_graph_is_opened_where_it_was_made(fast_bundle):
    bundle = read_bundle(fast_bundle)
    (graph,) = bundle.manifest.optimised
    assert bundle.graph() == (graph.graph, True)
    assert set(bundle.needed) == {graph.graph, *graph.weights}


@pytest.mark.parametrize("other", [{"ort": "1.0.0"}, {"system": "linux-sparc"}, {"system": "linux-sparc", "cpu": None}])
def test_elsewhere_the_portable_graph_is_opened(fast_bundle, other):
    bundle = read_bundle(fast_bundle, machine=replace(this_machine(), **other))
    assert bundle.graph() == ("model.onnx", False)
    assert bundle.needed == ["model.onnx", "model.onnx.data"]


def test_a_bundle_without_optimised_graphs_is_read_as_ever(bundle_folder):
    bundle = read_bundle(bundle_folder)
    assert (bundle.optimised, bundle.graph(), bundle.needed) == ((), ("model.onnx", False), ["model.onnx"])


def test_of_several_graphs_the_first_that_fits_is_opened(fast):
    document = json.loads((fast / "manifest.json").read_text())
    (graph,) = document["optimised"]
    document["files"]["newer.onnx"] = document["files"]["also.onnx"] = document["files"][graph["graph"]]
    document["optimised"] = [graph | {"ort": "1.99.0", "graph": "newer.onnx"}, graph, graph | {"graph": "also.onnx"}]
    (fast / "manifest.json").write_text(json.dumps(document))
    assert read_bundle(fast).graph() == (graph["graph"], True)


@pytest.mark.parametrize("damage", [spoil, os.remove])
@pytest.mark.parametrize("suffix", ["onnx", "data"])
def test_a_damaged_optimised_graph_is_refused_where_it_would_be_opened(fast, damage, suffix):
    (file,) = fast.glob(f"*.ort-*.{suffix}")
    damage(file)
    with pytest.raises(BadBundle, match=rf"{file.name}: expected .*, got"):
        read_bundle(fast)
    with pytest.raises(BadBundle, match=file.name):
        read_bundle(fast, every_file=True, machine=ELSEWHERE)
    assert read_bundle(fast, machine=ELSEWHERE).graph() == ("model.onnx", False)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_damaged_portable_graph_is_refused_where_it_would_be_opened(fast, name):
    spoil(fast / name)
    bundle = read_bundle(fast)
    for refused in (lambda: read_bundle(fast, machine=ELSEWHERE), lambda: as_portable(bundle),
                    lambda: read_bundle(fast, every_file=True)):
        with pytest.raises(BadBundle, match=rf"{name}: expected sha256"):
            refused()


def test_a_bundle_is_read_before_anything_heavy_is_imported(fast_bundle):
    code = f"import sys; from shutterless.bundles import read_bundle; read_bundle({str(fast_bundle)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "onnxruntime", "PIL"} & set(done.stdout.split()) == set()


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


@pytest.mark.parametrize(("model", "folder"), [(".", "tiles"), ("..", "tiles/9")])
def test_no_model_is_outside_the_folder_of_models(model, folder, models):
    with pytest.raises(NotFound):
        find_bundle(model, models / folder)


def test_lists_the_newest_version_of_each_model(models, tmp_path):
    assert list_bundles(models) == [models / "roads" / "1.10", models / "tiles" / "10"]
    assert list_bundles(tmp_path / "nowhere") == []
