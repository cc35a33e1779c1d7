"""Small networks of odd convolutions, as fp32 and as int8: what is replaced answers as before."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export import optimise as step
from model_export import runtime
from model_export.batched import PIXELS, with_int8_products, with_products
from model_export.errors import ExportError
from model_export.optimise import add, bundle_files, make_serving
from model_export.quantize import quantize
from model_export.runtime import Graph
from shutterless.bundles import for_batches, read_bundle
from shutterless.classifier import Classifier
from shutterless.errors import BadBundle
from shutterless.manifests import InputSpec, Manifest

SIDE = 8
ODD = {  # what a convolution of 16 channels in and 24 out, over a map of 8 x 8 pixels, may be
    "a window of one pixel": {"kernel": (1, 1), "strides": [2, 2]},
    "a border on all sides": {"kernel": (3, 3), "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "a border on two sides": {"kernel": (3, 3), "strides": [3, 2], "pads": [1, 0, 0, 1]},
    "a flat window": {"kernel": (1, 5), "strides": [2, 2], "pads": [0, 1, 0, 2]},
    "gaps in the window": {"kernel": (3, 3), "dilations": [2, 3]},
    "a window as large as the map": {"kernel": (8, 8)},
}


@pytest.fixture
def pixels():
    """uint8 (32, 8, 8, 3)."""
    return np.random.default_rng(1).integers(0, 256, (32, SIDE, SIDE, 3), dtype=np.uint8)


def network(path: Path, *, kernel: tuple[int, int] = (3, 3), bias: bool = True, **attributes) -> Path:
    """uint8 (N, 8, 8, 3) -> logits (N, 3): a convolution over all 64 pixels, the one that is asked for, one of single pixels."""
    random = np.random.default_rng(0)
    shapes = {"first": (16, 3, 3, 3), "odd": (24, 16 // attributes.get("group", 1), *kernel), "odd_bias": (24,),
              "last": (16, 24, 1, 1), "head": (16, 3)}
    tensors = [numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), name) for name, shape in shapes.items()]
    tensors.append(numpy_helper.from_array(np.array(1 / 64, np.float32), "scale"))
    nodes = [helper.make_node("Cast", ["pictures"], ["floats"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["floats", "scale"], ["scaled"]),
             helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
             helper.make_node("Conv", ["planes", "first"], ["a"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "odd", *(["odd_bias"] if bias else [])], ["c"], **attributes),
             helper.make_node("Relu", ["c"], ["d"]), helper.make_node("Conv", ["d", "last"], ["e"]),
             helper.make_node("GlobalAveragePool", ["e"], ["f"]), helper.make_node("Flatten", ["f"], ["g"]),
             helper.make_node("MatMul", ["g", "head"], ["logits"])]
    for node in nodes:
        node.name = f"{node.op_type} to {node.output[0]}"  # by which quantisation leaves some out
    graph = helper.make_graph(nodes, "odd", [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    return path


def bundle_of(folder: Path, graph: Path, pixels: np.ndarray, precision: str = "fp32") -> Path:
    """A bundle by the steps of export."""
    folder.mkdir(parents=True)
    _, optimised = make_serving(graph, folder / "model.onnx", "always", pixels)
    manifest = Manifest(name="odd", version="1", task="classify", labels=("a", "b", "c"), input=InputSpec(size=SIDE), opset=20,
                        files=bundle_files(folder), precision=precision, optimised=optimised)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def int8(graph: Path, pixels: np.ndarray) -> Path:
    quantize(graph, graph.with_name("int8.onnx"), pixels)
    return graph.with_name("int8.onnx")


def graphs_of(folder: Path) -> tuple[Graph, Graph]:
    """For single pictures, and for batches."""
    bundle = read_bundle(folder, every_file=True)
    return Graph(folder / bundle.graph()[0], optimised=True), Graph(folder / for_batches(bundle).graph()[0], batches=True)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("bias", [True, False])
def test_fp32_answers_as_before_with_products_in_place_of_convolutions(tmp_path, pixels, odd, bias):
    single, batches = graphs_of(bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", bias=bias, **odd), pixels))
    everything = np.arange(len(pixels))
    expected, got = runtime.run(single, pixels, everything), runtime.run(batches, pixels, everything)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (runtime.executed_operators(single)["Conv"], runtime.executed_operators(batches)["Conv"]) == (3, 1)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("bias", [True, False])
def test_int8_answers_bit_for_bit_as_before(tmp_path, pixels, odd, bias):
    graph = int8(network(tmp_path / "net.onnx", bias=bias, **odd), pixels)
    single, batches = graphs_of(bundle_of(tmp_path / "odd/1", graph, pixels, "int8"))
    everything = np.arange(len(pixels))
    assert np.array_equal(runtime.run(batches, pixels, everything), runtime.run(single, pixels, everything))
    assert runtime.executed_operators(single)["QLinearConv"] == 3
    assert runtime.executed_operators(batches)["QLinearConv"] == 1
    assert runtime.executed_operators(batches)["QGemm"] >= 2


def test_the_graph_for_batches_brings_no_weights_of_its_own(tmp_path, pixels):
    fp32, again = (network(tmp_path / name, strides=[2, 2]) for name in ("net.onnx", "again.onnx"))
    for name, graph in (("fp32", fp32), ("int8", int8(again, pixels))):
        folder = bundle_of(tmp_path / name / "1", graph, pixels, name)
        (batches,) = (graph for graph in read_bundle(folder).manifest.optimised if graph.batches)
        assert f"{batches.graph}.data" not in batches.weights
        assert set(batches.weights) <= {path.name for path in folder.glob("*.data")}
        assert (folder / batches.graph).stat().st_size < 20_000


def test_large_maps_and_grouped_convolutions_stay_as_they_are(tmp_path):
    large = onnx.load(str(network(tmp_path / "large.onnx", kernel=(3, 3), pads=[1, 1, 1, 1])))
    assert SIDE * SIDE > PIXELS
    assert with_products(large) == 0
    grouped = onnx.load(str(network(tmp_path / "grouped.onnx", kernel=(3, 3), strides=[2, 2], pads=[1, 1, 1, 1], group=8)))
    assert with_products(grouped) == 1
    assert [node.op_type for node in grouped.graph.node].count("Conv") == 2


def test_a_network_without_small_maps_gets_no_second_graph(tmp_path, pixels):
    folder = bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", kernel=(3, 3), pads=[1, 1, 1, 1]), pixels)
    bundle = read_bundle(folder)
    assert len(bundle.manifest.optimised) == 1
    assert for_batches(bundle).graph() == bundle.graph()
    assert with_int8_products(onnx.load(str(folder / "model.onnx"))) == 0


def test_a_graph_that_answers_otherwise_is_refused(tmp_path, pixels, monkeypatch):
    def spoiled(model: onnx.ModelProto) -> int:
        count = with_products(model)
        (head,) = (tensor for tensor in model.graph.initializer if tensor.name == "head")
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(1.001), "head"))
        return count

    monkeypatch.setattr(step, "with_products", spoiled)
    with pytest.raises(ExportError, match=r"batches\.onnx does not answer to 2e-06 in confidence like model\.onnx: .*--optimise"):
        bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", strides=[2, 2]), pixels)


@pytest.mark.usefixtures("without_kernels")
def test_batches_are_answered_by_their_graph_and_single_pictures_by_theirs(tmp_path, pixels, monkeypatch):
    folder = bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", strides=[2, 2]), pixels)
    opened: list[str] = []
    open_session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda path, *rest, **options: (
        opened.append(Path(path).name), open_session(path, *rest, **options))[1])
    single, batched = graphs_of(folder)
    classifier = Classifier(read_bundle(folder))
    for count in (1, 3):
        classifier.classify(pixels[:count])
    assert opened == [single.path.name]
    answers = [classifier.classify(pixels[:count]) for count in (4, 32, 3)]
    assert opened == [single.path.name, batched.path.name]
    for answer, graph in zip(answers, (batched, batched, single), strict=True):
        assert np.array_equal(answer, runtime.run(graph, pixels, np.arange(len(answer))))


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_without_the_graph_for_batches_they_are_answered_all_the_same(tmp_path, pixels, damage, caplog):
    folder = bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", strides=[2, 2]), pixels)
    single, batched = graphs_of(folder)
    content = batched.path.read_bytes()
    batched.path.unlink()
    if damage == "changed":
        batched.path.write_bytes(content[:-1] + b"?")
    bundle = read_bundle(folder)
    with pytest.raises(BadBundle, match=batched.path.name):
        for_batches(bundle)
    classifier = Classifier(bundle)
    assert np.array_equal(classifier.classify(pixels), runtime.run(single, pixels, np.arange(len(pixels))))
    assert "no graph for batches that can be opened" in caplog.text


def test_a_bundle_from_before_gets_the_graph_for_batches_as_another_version(tmp_path, pixels):
    folder = bundle_of(tmp_path / "odd/1", network(tmp_path / "net.onnx", strides=[2, 2]), pixels)
    document = json.loads((folder / "manifest.json").read_text())
    (batches,) = (graph for graph in document["optimised"] if graph["batches"])
    document["optimised"] = [{name: value for name, value in graph.items() if name != "batches"}
                             for graph in document["optimised"] if graph is not batches]
    del document["files"][batches["graph"]]
    (folder / batches["graph"]).unlink()
    (folder / "manifest.json").write_text(json.dumps(document))
    old, new = read_bundle(folder), read_bundle(add(read_bundle(folder)), every_file=True)
    assert (len(old.batched), len(new.batched), new.manifest.version) == (0, 1, "2")
    assert new.optimised == old.optimised
    with pytest.raises(ExportError, match="nothing to add"):
        add(new)
