"""Our own fp32 convolutions are as exact as onnxruntime's, to some 1e-6 of the largest output."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shutterless.sessions import PORTABLE_LEVEL, session_options
from tests.shutterless.kernels.building import opened

Array = NDArray[np.float32]
ERROR = 4e-6  # of the largest output: that of 2^24 steps, some sums long


def convolution(folder: Path, weights: Array, *, bias: Array | None = None, relu: bool = False, added: bool = False,
                sides: tuple[object, object] = ("rows", "columns"), **attributes: object) -> Path:
    """A graph of one Conv of pictures (N, channels, rows, columns), optimised for this machine. added: to what another
    convolution makes of them, of windows of one pixel."""
    tensors = {"w": weights} | ({} if bias is None else {"b": bias})
    nodes = [helper.make_node("Conv", ["x", *tensors], ["last" if not (relu or added) else "conv"], **attributes)]
    if added:
        first, channels = weights.shape[:2]
        tensors["other"] = drawn(first, channels, 1, 1, seed=9)
        nodes += [helper.make_node("Conv", ["x", "other"], ["beside"], strides=attributes.get("strides", [1, 1])),
                  helper.make_node("Add", ["conv", "beside"], ["sum" if relu else "last"])]
    if relu:
        nodes.append(helper.make_node("Relu", ["sum" if added else "conv"], ["last"]))
    return saved(folder, nodes, tensors, (weights.shape[1], *sides))


def saved(folder: Path, nodes: list[onnx.NodeProto], tensors: dict[str, Array], shape: tuple[object, ...]) -> Path:
    """x (N, *shape) -> last, optimised for this machine."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
    outputs = [helper.make_tensor_value_info("last", TensorProto.FLOAT, None)]
    kept = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    graph = helper.make_graph(nodes, "convolution", inputs, outputs, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = session_options(1, level=PORTABLE_LEVEL)
    options.optimized_model_filepath = str(folder / "convolution.onnx")
    options.log_severity_level = 3  # that such a graph is for this machine alone is known
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = {(node.domain, node.op_type) for node in onnx.load(folder / "convolution.onnx").graph.node}
    assert ("com.microsoft.nchwc", "Conv") in kinds
    assert not {("", "Relu"), ("", "Add")} & kinds, "they are to be part of the convolution"
    return folder / "convolution.onnx"


def exact(x: Array, weights: Array, *, bias: Array | None = None, strides: tuple[int, int] = (1, 1),
          dilations: tuple[int, int] = (1, 1), pads: tuple[int, int, int, int] = (0, 0, 0, 0)) -> NDArray[np.float64]:
    """In float64, place by place of the window."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    rows, columns = weights.shape[2:]
    down = (padded.shape[2] - dilations[0] * (rows - 1) - 1) // strides[0] + 1
    across = (padded.shape[3] - dilations[1] * (columns - 1) - 1) // strides[1] + 1
    found = np.zeros((len(x), len(weights), down, across)) + (0 if bias is None else bias[:, None, None])
    for row in range(rows):
        for column in range(columns):
            seen = padded[:, :, row * dilations[0]:, column * dilations[1]:][:, :, ::strides[0], ::strides[1]]
            found += np.einsum("ncyx,mc->nmyx", seen[:, :, :down, :across], weights[:, :, row, column].astype(np.float64))
    return found


def drawn(*shape: int, seed: int = 1) -> Array:
    """Of a spread that keeps outputs near 1 where it is the shape of weights."""
    return np.random.default_rng(seed).normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def pictures(*shape: int, seed: int = 2) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


@pytest.fixture
def ours(runnable) -> Callable[[Path], ort.InferenceSession]:
    """Opens a graph with the kernel."""
    kernel = runnable("conv.so")
    return lambda path: opened(path, kernel)


def differ(found: Array, expected: NDArray[np.float64]) -> float:
    """At most, as a share of the largest that is expected."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


RING = [1, 1, 1, 1]


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("x", "weights", "attributes"), [
    ((3, 64, 8, 8), (64, 64, 1, 1), {}),
    ((2, 32, 1, 1), (32, 32, 1, 1), {}),
    ((5, 64, 13, 7), (96, 64, 1, 1), {}),
    ((2, 2048, 4, 4), (32, 2048, 1, 1), {}),
    ((2, 64, 9, 9), (16, 64, 1, 1), {"strides": [2, 2]}),
    ((3, 64, 16, 16), (64, 64, 3, 3), {"pads": RING}),
    ((3, 48, 7, 5), (80, 48, 3, 3), {"pads": RING}),
    ((2, 32, 6, 9), (48, 32, 3, 3), {}),
    ((2, 32, 3, 3), (32, 32, 3, 3), {}),
    ((2, 32, 5, 4), (32, 32, 3, 3), {"pads": [2, 0, 1, 3]}),
    ((9, 512, 4, 4), (64, 512, 3, 3), {"pads": RING}),
    ((1, 32, 1, 1), (32, 32, 3, 3), {"pads": RING}),
    ((9, 512, 2, 2), (96, 512, 3, 3), {"pads": RING}),
    ((1, 32, 2, 2), (32, 32, 3, 3), {"pads": RING}),
    ((3, 32, 2, 2), (32, 32, 3, 3), {"pads": [2, 2, 2, 2]}),
    ((3, 16, 9, 9), (16, 16, 3, 3), {"pads": RING}),
    ((3, 128, 9, 9), (64, 128, 3, 3), {"pads": RING, "strides": [2, 2]}),
    ((2, 64, 12, 12), (32, 64, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ((1, 32, 3, 3), (32, 32, 5, 5), {"pads": [4, 4, 4, 4], "strides": [3, 1]}),
    ((2, 3, 33, 31), (64, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((2, 3, 8, 300), (16, 3, 3, 3), {"pads": RING}),
    ((2, 3, 260, 260), (16, 3, 2, 2), {"strides": [2, 3]}),
    ((2, 4, 9, 9), (32, 4, 3, 3), {"dilations": [2, 1]}),
    ((1, 3, 2, 600), (16, 3, 2, 590), {}),
    ((1, 832, 4, 4), (32, 832, 3, 3), {"pads": RING}),
    ((9, 832, 2, 2), (32, 832, 3, 3), {"pads": RING}),
    ((1, 848, 4, 4), (32, 848, 3, 3), {"pads": RING}),
    ((1, 1024, 3, 3), (32, 1024, 3, 3), {"pads": RING}),
], ids=str)
def test_sums_are_exact(tmp_path, ours, x, weights, attributes):
    x, weights = pictures(*x), drawn(*weights)
    found = ours(convolution(tmp_path, weights, **attributes)).run(None, {"x": x})[0]
    assert differ(found, exact(x, weights, **attributes)) <= ERROR


@pytest.mark.needs("kernel")
def test_sums_are_exact_whatever_the_shape(tmp_path, ours):
    random = np.random.default_rng(3)
    for seed in range(100):
        channels, maps = int(random.choice([1, 3, 5, 16, 32, 48, 64, 96])), int(random.choice([16, 32, 48, 64, 112]))
        kernel = [3, 3] if seed % 2 else random.integers(1, 5, 2).tolist()
        gaps = random.integers(1, 3, 2).tolist() if channels >= 16 and seed % 4 else [1, 1]
        spread = [gap * (side - 1) + 1 for side, gap in zip(kernel, gaps, strict=True)]
        attributes = {"dilations": gaps, "strides": [1, 1] if seed % 3 else random.integers(1, 4, 2).tolist(),
                      "pads": random.integers(0, 3, 4).tolist()}
        x = pictures(int(random.integers(1, 6)), channels, *(int(random.integers(side, side + 9)) for side in spread), seed=seed)
        weights, bias = drawn(maps, channels, *kernel, seed=seed), drawn(maps, seed=seed)
        found = ours(convolution(tmp_path, weights, bias=bias, **attributes)).run(None, {"x": x})[0]
        assert differ(found, exact(x, weights, bias=bias, **attributes)) <= ERROR, (seed, x.shape, weights.shape, attributes)


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("side", "kernel"), [(16, 1), (3, 1), (16, 3), (7, 3), (2, 3)])
@pytest.mark.parametrize(("biased", "added", "relu"), [(0, 0, 1), (1, 1, 1), (0, 1, 0), (1, 0, 0)])
def test_what_follows_is_part_of_it(tmp_path, ours, side, kernel, biased, added, relu):
    x, weights, bias = pictures(3, 32, side, side), drawn(48, 32, kernel, kernel), drawn(48) if biased else None
    pads = RING if kernel == 3 else [0] * 4
    path = convolution(tmp_path, weights, bias=bias, relu=relu, added=added, sides=(side, side), pads=pads)
    expected = exact(x, weights, bias=bias, pads=pads)
    if added:
        expected += exact(x, drawn(48, 32, 1, 1, seed=9))
    if relu:
        expected = np.maximum(expected, 0)
    found = ours(path).run(None, {"x": x})[0]
    assert differ(found, expected) <= ERROR
    assert not relu or found.min() == 0


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("side", [2, 16])
def test_a_picture_that_is_the_sum_too_is_not_written_over(tmp_path, ours, side):
    x, weights = pictures(3, 32, side, side), drawn(32, 32, 3, 3)
    first = helper.make_node("Conv", ["x", "first"], ["y"])
    nodes = [first, helper.make_node("Conv", ["y", "w"], ["conv"], pads=RING), helper.make_node("Add", ["conv", "y"], ["last"])]
    identity = np.eye(32, dtype=np.float32)[:, :, None, None]
    found = ours(saved(tmp_path, nodes, {"first": identity, "w": weights}, (32, side, side))).run(None, {"x": x})[0]
    assert differ(found, exact(x, weights, pads=RING) + x) <= ERROR


@pytest.mark.needs("kernel")
def test_a_deep_network_stays_within_what_is_promised(tmp_path, ours):
    """As deep as ResNet50: 16 blocks of three convolutions, 64 channels, with sums and Relu."""
    tensors, nodes, last = {"start": drawn(64, 3, 3, 3)}, [helper.make_node("Conv", ["x", "start"], ["y0"], pads=RING)], "y0"
    for block in range(16):
        before = last
        for place, kernel in enumerate((1, 3, 1)):
            name = f"{block}_{place}"
            tensors[f"w{name}"] = drawn(64, 64, kernel, kernel, seed=3 * block + place)
            pads = RING if kernel == 3 else [0] * 4
            nodes.append(helper.make_node("Conv", [before, f"w{name}"], [f"c{name}"], pads=pads))
            before = f"c{name}"
        nodes.append(helper.make_node("Add", [before, last], [f"s{block}"]))
        nodes.append(helper.make_node("Relu", [f"s{block}"], [f"y{block + 1}"]))
        last = f"y{block + 1}"
    nodes[-1].output[0] = "last"
    path, x = saved(tmp_path, nodes, tensors, (3, 16, 16)), pictures(5, 3, 16, 16)
    assert differ(ours(path).run(None, {"x": x})[0], opened(path).run(None, {"x": x})[0]) <= 1e-5


@pytest.mark.needs("kernel")
def test_it_is_about_as_exact_as_onnxruntime(tmp_path, ours):
    x, weights = pictures(4, 256, 8, 8), drawn(256, 256, 3, 3)
    path, expected = convolution(tmp_path, weights, pads=RING), exact(x, weights, pads=RING)
    errors = [float(np.abs(session.run(None, {"x": x})[0] - expected).std()) for session in (ours(path), opened(path))]
    assert errors[0] <= 3 * errors[1]


@pytest.mark.needs("kernel")
def test_one_session_runs_batches_of_all_sizes_on_many_threads(tmp_path, ours):
    session = ours(convolution(tmp_path, drawn(64, 48, 3, 3), pads=RING))
    x = pictures(17, 48, 9, 9)
    expected = session.run(None, {"x": x})[0]

    def run(count: int) -> bool:
        return all(np.allclose(session.run(None, {"x": x[:count]})[0], expected[:count], atol=1e-5) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(1, 18)))
    assert session.run(None, {"x": x[:0]})[0].shape == (0, 64, 9, 9)


@pytest.mark.needs("kernel")
def test_a_session_takes_maps_of_other_sizes_from_run_to_run(tmp_path, ours):
    weights = drawn(32, 64, 3, 3)
    session = ours(convolution(tmp_path, weights, pads=RING))
    for side in (2, 9, 2, 1, 16, 2):
        x = pictures(3, 64, side, side)
        assert differ(session.run(None, {"x": x})[0], exact(x, weights, pads=RING)) <= ERROR


# What it does not take.

@pytest.mark.needs("kernel")
@pytest.mark.parametrize("change", [
    {"group": 2}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"}, {"strides": [2]}, {"dilations": [1, 0]}, {"pads": [1, 1]},
    {"pads": [0, 0, 0, -1]}, {"kernel_shape": [3, 2]}, {"activation": "Tanh"}, {"activation": "HardSigmoid"},
], ids=str)
def test_a_convolution_that_it_cannot_do_is_refused_when_the_graph_is_opened(tmp_path, ours, change):
    path = convolution(tmp_path, drawn(32, 32, 3, 3))
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    kept = [attribute for attribute in node.attribute if attribute.name not in change]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in change.items())])
    onnx.save(model, path)
    with pytest.raises(Exception, match="Conv: expected"):
        ours(path)


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("shape", "attributes", "said"), [
    ((16, 3, 3, 3), {"dilations": [1, 2]}, "no gaps in a window on a picture"),
    ((16, 3, 600, 2), {}, "a window is too large"), ((16, 1024, 4, 4), {}, "a window is too large"),
], ids=str)
def test_windows_that_it_cannot_look_through_are_refused_when_the_graph_is_opened(tmp_path, ours, shape, attributes, said):
    path = convolution(tmp_path, drawn(*shape), **attributes)
    with pytest.raises(Exception, match=said):
        ours(path)


@pytest.mark.needs("kernel")
def test_weights_that_are_no_constants_are_refused(tmp_path, ours):
    path = convolution(tmp_path, drawn(32, 32, 3, 3))
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    del model.graph.initializer[:]
    onnx.save(model, path)
    with pytest.raises(Exception, match="expected constants beside the picture"):
        ours(path)
