"""With a small network of two fp32 convolutions; the int8 bundle of test_export.py holds what is asked of int8."""

import json
import shutil
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from model_export import optimise as step
from model_export import runtime
from model_export.errors import ExportError
from model_export.optimise import add, make_serving, optimise, pack
from model_export.runtime import Graph
from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier
from shutterless.hardware import this_machine


@pytest.fixture
def pixels(draw):
    """uint8 (6, 32, 32, 3)."""
    return np.stack([np.asarray(draw((32, 32), seed)) for seed in range(6)])


@pytest.fixture
def plain(fast_bundle, tmp_path):
    """A graph as exporters write it: weights and notes inside."""
    model = onnx.load(str(fast_bundle / "model.onnx"))
    for node in model.graph.node:
        node.doc_string = "File somewhere/model.py, line 3"
        node.metadata_props.add(key="stack_trace", value="File somewhere/model.py, line 3")
    onnx.save(model, str(tmp_path / "plain.onnx"))
    return tmp_path / "plain.onnx"


@pytest.fixture
def portable(plain):
    pack(plain, plain.with_name("model.onnx"))
    return plain.with_name("model.onnx")


def test_a_packed_graph_is_plain_onnx_that_answers_as_before(plain, portable, pixels):
    onnx.checker.check_model(str(portable), full_check=True)
    for path in (plain, portable):  # as any tool opens it
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers = session.run(None, {"pictures": pixels})[0]
        assert np.array_equal(answers, runtime.run(plain, pixels, np.arange(6)))


def test_a_packed_graph_keeps_its_weights_beside_it_and_no_notes_of_the_exporter(portable):
    model = onnx.load(str(portable), load_external_data=False)
    outside = [tensor for tensor in model.graph.initializer if tensor.external_data]
    assert {tensor.name for tensor in outside} == {"first", "second"}
    offsets = [int(entry.value) for tensor in outside for entry in tensor.external_data if entry.key == "offset"]
    assert all(offset % 64 == 0 for offset in offsets)
    assert b"somewhere" not in portable.read_bytes()


def test_equal_tensors_are_kept_once(plain):
    model = onnx.load(str(plain))
    for tensor in list(model.graph.initializer):
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = f"{tensor.name}_again"
    onnx.save(model, str(plain))
    pack(plain, plain.with_name("twice.onnx"))
    assert plain.with_name("twice.onnx.data").stat().st_size == 4 * (32 * 3 * 9 + 64 * 32 * 9)


def test_the_optimised_graph_runs_what_full_optimisation_would(portable, pixels):
    graph = optimise(portable, pixels=pixels)
    path = portable.with_name(graph.graph)
    served = Graph(path, optimised=True)
    assert runtime.executed_operators(served) == runtime.executed_operators(portable)
    assert np.array_equal(runtime.run(served, pixels, np.arange(6)), runtime.run(portable, pixels, np.arange(6)))
    assert (graph.of, graph.ort, graph.system) == ("model.onnx", onnxruntime.__version__, this_machine().system)
    assert this_machine().takes(graph)


@pytest.mark.skipif(not this_machine().system.endswith("x86_64"), reason="how Arm lays convolutions out does not depend on AVX")
def test_a_graph_in_blocks_is_for_cpus_with_blocks_of_that_size(portable):
    has = "avx512f" in this_machine().cpu
    graph = optimise(portable)
    assert graph.cpu == {"avx512f": has}
    model = onnx.load(str(portable.with_name(graph.graph)))
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    (first,) = (node for node in model.graph.node if node.op_type == "Conv" and node.input[0] != "scaled")
    assert first.domain == "com.microsoft.nchwc"
    assert weights[first.input[1]][0] % (16 if has else 8) == 0


def test_weights_that_are_laid_out_anew_get_a_file_of_their_own(portable):
    before = portable.with_name("model.onnx.data").read_bytes()
    graph = optimise(portable)
    assert graph.weights == (f"{graph.graph}.data",)
    assert portable.with_name("model.onnx.data").read_bytes() == before


def test_a_bundle_does_not_double_when_only_shared_weights_are_wanted(portable):
    assert optimise(portable, "shared") is None
    assert optimise(portable, "never") is None
    assert sorted(path.name for path in portable.parent.iterdir()) == ["model.onnx", "model.onnx.data", "plain.onnx"]


def test_another_graph_replaces_all_that_was_made_of_the_first(portable, unchanged_source, pixels):
    folder = portable.parent / "bundle"
    folder.mkdir()
    make_serving(portable, folder / "model.onnx", "always", pixels)
    served, optimised = make_serving(unchanged_source, folder / "model.onnx", "always", pixels)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "model.onnx.data", optimised[0].graph}
    assert served == Graph(folder / optimised[0].graph, optimised=True)
    assert make_serving(portable, folder / "model.onnx", "never", pixels) == (Graph(folder / "model.onnx"), ())


@pytest.fixture
def unchanged(unchanged_source, tmp_path):
    pack(unchanged_source, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def unchanged_source(tmp_path):
    """A graph in which nothing is laid out anew: one matrix."""
    helper = onnx.helper
    weights = onnx.numpy_helper.from_array(np.random.default_rng(0).normal(size=(3072, 3)).astype(np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Cast", ["pictures"], ["floats"], to=1), helper.make_node("Flatten", ["floats"], ["flat"]),
         helper.make_node("MatMul", ["flat", "weights"], ["logits"])], "matrix",
        [helper.make_tensor_value_info("pictures", onnx.TensorProto.UINT8, ["N", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3])], [weights])
    path = tmp_path / "matrix.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_weights_that_stay_as_they_are_are_shared(unchanged, pixels):
    graph = optimise(unchanged, "shared", pixels)
    assert graph.weights == ("model.onnx.data",)
    assert graph.cpu == ({} if this_machine().system.endswith("x86_64") else graph.cpu)
    assert unchanged.with_name(graph.graph).stat().st_size < 2000


def test_a_graph_that_answers_otherwise_in_a_single_bit_is_refused(portable, pixels, monkeypatch):
    write = runtime.write_optimised

    def spoil(source, target):
        write(source, target)
        model = onnx.load(str(target))
        (last,) = (tensor for tensor in model.graph.initializer if tensor.name == "last")
        values = onnx.numpy_helper.to_array(last) * np.float32(1 + 2**-20)
        last.CopyFrom(onnx.numpy_helper.from_array(values, "last"))
        onnx.save(model, str(target))

    monkeypatch.setattr(step.runtime, "write_optimised", spoil)
    with pytest.raises(ExportError, match=r"does not answer bit for bit like model\.onnx: on 6 pictures .*--optimise never"):
        optimise(portable, pixels=pixels)


# Another version of a bundle, with a graph for this machine.

@pytest.fixture
def old(make_bundle, plain, tmp_path):
    """A bundle from before weights were kept apart, with a report card."""
    folder = make_bundle(tmp_path / "models", name="tiles", version="1.9", model=plain.read_bytes(), labels=["a", "b", "c"])
    (folder / "report.md").write_text("99 %")
    return folder


@pytest.mark.usefixtures("without_kernels")
def test_another_machine_s_graph_becomes_another_version_and_the_old_one_stays(old, pixels):
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    folder = add(read_bundle(old))
    assert folder == old.with_name("1.10")
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    bundle = read_bundle(folder, every_file=True)
    assert bundle.graph()[1]
    assert bundle.manifest.version == "1.10"
    assert bundle.manifest.source["optimised_from"] == {"version": "1.9", "sha256": read_bundle(old).sha256}
    assert np.array_equal(Classifier(bundle).classify(pixels), Classifier(read_bundle(old)).classify(pixels))
    assert (folder / "report.md").read_text() == "99 %"


def test_a_bundle_may_hold_graphs_for_several_machines(fast_bundle, tmp_path):
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    document = json.loads((folder / "manifest.json").read_text())
    (graph,) = document["optimised"]
    elsewhere = graph["graph"].replace("1.31", "1.30")
    for name in (graph["graph"], f"{graph['graph']}.data"):
        (folder / name).rename(folder / name.replace("1.31", "1.30"))
        document["files"][name.replace("1.31", "1.30")] = document["files"].pop(name)
    document["optimised"] = [graph | {"graph": elsewhere, "weights": [f"{elsewhere}.data"], "ort": "1.30.1"}]
    (folder / "manifest.json").write_text(json.dumps(document))
    bundle = read_bundle(add(read_bundle(folder)), every_file=True)
    assert Counter(graph.ort for graph in bundle.manifest.optimised) == {"1.30.1": 1, onnxruntime.__version__: 1}
    assert bundle.graph() == (graph["graph"], True)


def test_nothing_is_added_where_the_bundle_opens_fast_already(fast_bundle):
    with pytest.raises(ExportError, match="nothing to add"):
        add(read_bundle(fast_bundle))


@pytest.mark.parametrize("version", ["1.9", "../1", "a b"])
def test_a_version_that_exists_or_cannot_be_is_refused(old, version):
    with pytest.raises(ExportError, match=r"Give another: --version\."):
        add(read_bundle(old), version)


def test_a_version_without_a_number_must_be_told(make_bundle, plain, tmp_path):
    folder = make_bundle(tmp_path / "models", version="draft", model=plain.read_bytes())
    with pytest.raises(ExportError, match=r"Give one: --version\."):
        add(read_bundle(folder))


def test_a_graph_that_is_refused_leaves_no_half_written_version(old, monkeypatch):
    monkeypatch.setattr(step, "optimise", lambda *_, **__: None)
    with pytest.raises(ExportError, match="does not tell what its CPU can do"):
        add(read_bundle(old))
    assert [path.name for path in old.parent.iterdir()] == ["1.9"]


def test_a_signature_of_the_old_version_is_not_copied(old):
    (old / "model.sig").write_text("of 1.9")
    assert not (add(read_bundle(old)) / "model.sig").exists()
