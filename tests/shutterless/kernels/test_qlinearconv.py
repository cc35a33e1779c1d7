"""Our own int8 convolutions give each bit that onnxruntime's give."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.shutterless.kernels.building import opened


def convolution(folder: Path, weights: NDArray[np.int8], *, seed: int = 0, x_zero: int = 7, y_zero: int = 9, bias: bool = True,
                by_map: bool = True, rank: int = 0, w_zero: int = 0, constant: bool = True, signed: bool = False,
                **attributes: object) -> Path:
    """A graph of one QLinearConv (N, rows, columns, channels) -> the same, whose outputs fill their range and go beyond it."""
    random = np.random.default_rng(seed)
    maps, window = len(weights), weights[0].size
    scales = random.uniform(0.5, 2, maps if by_map else ()).astype(np.float32)
    pixel, single = np.int8 if signed else np.uint8, (1,) * rank
    tensors = {"x_scale": np.full(single, 0.02, np.float32), "x_zero": np.full(single, x_zero, pixel), "w": weights,
               "w_scale": scales, "w_zero": np.full(scales.shape, w_zero, np.int8),
               "y_scale": np.full(single, 0.015 * np.sqrt(window) * 40, np.float32), "y_zero": np.full(single, y_zero, pixel),
               "bias": random.integers(-9000, 9000, maps, dtype=np.int32)}
    names = ["x", *(name for name in tensors if bias or name != "bias")]
    node = helper.make_node("QLinearConv", names, ["y"], domain="com.microsoft", **{"channels_last": 1} | attributes)
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    inputs = [helper.make_tensor_value_info("x", kind, ["N", None, None, None])]
    if not constant:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.INT8, list(weights.shape)))
    kept = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items() if constant or name != "w"]
    graph = helper.make_graph([node], "convolution", inputs,
                              [helper.make_tensor_value_info("y", kind, None)], kept)
    path = folder / "convolution.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
                                ir_version=10), str(path))
    return path


@pytest.fixture
def ours(int8_kernel) -> Callable[[Path], ort.InferenceSession]:
    """Opens a graph with a kernel."""
    return lambda path: opened(path, int8_kernel)


def random_weights(*shape: int, seed: int = 1) -> NDArray[np.int8]:
    return np.random.default_rng(seed).integers(-128, 128, shape, dtype=np.int8)


# Bit for bit.

@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("pictures", "weights", "attributes"), [
    ((3, 8, 8, 64), (64, 64, 1, 1), {}),
    ((1, 1, 1, 64), (32, 64, 1, 1), {}),
    ((5, 7, 5, 64), (96, 64, 1, 1), {}),
    ((3, 7, 7, 64), (96, 64, 1, 1), {}),
    ((1, 5, 5, 128), (224, 128, 1, 1), {}),
    ((1, 4, 4, 64), (224, 64, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 9, 9, 128), (16, 128, 1, 1), {"strides": [2, 2], "kernel_shape": [1, 1]}),
    ((3, 8, 8, 64), (64, 64, 1, 1), {"strides": [2, 2]}),
    ((3, 8, 8, 64), (64, 64, 1, 1), {"pads": [0, 1, 0, 0], "auto_pad": "NOTSET"}),
    ((2, 9, 9, 16), (16, 16, 3, 3), {"rank": 1, "by_map": False, "bias": False}),
    ((2, 33, 31, 3), (64, 3, 7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((7, 4, 4, 32), (40, 32, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 6, 5, 5), (7, 5, 3, 2), {"pads": [0, 2, 1, 0]}),
    ((2, 12, 12, 16), (33, 16, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ((1, 3, 3, 8), (8, 8, 5, 5), {"pads": [4, 4, 4, 4], "strides": [3, 1]}),
    ((9, 20, 20, 24), (48, 24, 3, 3), {}),
    ((2, 2, 2, 512), (64, 512, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 3, 3, 16384), (8, 16384, 1, 1), {}),
    ((10, 91, 9, 64), (8, 64, 1, 9), {"strides": [1, 8], "pads": [0, 0, 0, 8]}),
    ((35, 7, 7, 64), (8, 64, 3, 3), {"strides": [2, 2], "pads": [0, 2, 0, 2]}),
], ids=str)
def test_every_bit_is_as_without_it(tmp_path, ours, pictures, weights, attributes):
    path = convolution(tmp_path, random_weights(*weights), **attributes)
    x = np.random.default_rng(2).integers(0, 256, pictures, dtype=np.uint8)
    expected = opened(path).run(None, {"x": x})[0]
    assert expected.min() == 0
    assert expected.max() == 255, "the outputs are to go beyond what a byte holds"
    assert np.array_equal(ours(path).run(None, {"x": x})[0], expected)


@pytest.mark.needs("kernel")
def test_every_bit_is_as_without_it_whatever_the_shape(tmp_path, ours):
    random = np.random.default_rng(3)
    for seed in range(150):
        channels, maps = (int(random.choice([1, 2, 3, 4, 5, 16, 31, 64, 65, 128])) for _ in range(2))
        kernel, gaps = random.integers(1, 5, 2).tolist(), random.integers(1, 3, 2).tolist()
        spread = [gap * (side - 1) + 1 for side, gap in zip(kernel, gaps, strict=True)]
        size = [int(random.integers(side, side + 9)) for side in spread]
        path = convolution(tmp_path, random_weights(maps, channels, *kernel, seed=seed), seed=seed, dilations=gaps,
                           strides=random.integers(1, 4, 2).tolist(), pads=random.integers(0, 4, 4).tolist(),
                           x_zero=int(random.integers(256)), y_zero=int(random.integers(256)), bias=bool(random.integers(2)),
                           by_map=bool(random.integers(2)))
        x = random.integers(0, 256, (int(random.integers(1, 6)), *size, channels), dtype=np.uint8)
        assert np.array_equal(ours(path).run(None, {"x": x})[0], opened(path).run(None, {"x": x})[0]), seed


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("weight", "pixel"), [(127, 255), (-128, 255), (-128, 0)])
def test_the_largest_sums_are_exact(tmp_path, ours, weight, pixel):
    path = convolution(tmp_path, np.full((32, 1024, 3, 3), weight, np.int8), pads=[1, 1, 1, 1], x_zero=255 - pixel)
    x = np.full((2, 4, 4, 1024), pixel, np.uint8)
    assert np.array_equal(ours(path).run(None, {"x": x})[0], opened(path).run(None, {"x": x})[0])


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("y_scale", [0, 1e-45, 1e-38, 1e38, -1, np.inf, np.nan])
def test_scales_that_leave_no_number_end_as_without_it(tmp_path, ours, y_scale):
    path = convolution(tmp_path, random_weights(40, 16, 1, 1), bias=False)
    model = onnx.load(str(path))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "y_scale")
    tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, y_scale, np.float32), "y_scale"))
    onnx.save(model, str(path))
    x = np.random.default_rng(7).integers(0, 256, (3, 5, 5, 16), dtype=np.uint8)
    x[0] = 7  # x_zero: sums of 0
    assert np.array_equal(ours(path).run(None, {"x": x})[0], opened(path).run(None, {"x": x})[0])


@pytest.mark.needs("kernel")
def test_one_session_runs_batches_of_all_sizes_on_many_threads(tmp_path, ours):
    path = convolution(tmp_path, random_weights(64, 48, 3, 3), pads=[1, 1, 1, 1])
    session, builtin = ours(path), opened(path)
    x = np.random.default_rng(4).integers(0, 256, (17, 9, 9, 48), dtype=np.uint8)
    expected = builtin.run(None, {"x": x})[0]

    def run(count: int) -> bool:
        return all(np.array_equal(session.run(None, {"x": x[:count]})[0], expected[:count]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(1, 18)))
    assert session.run(None, {"x": x[:0]})[0].shape == (0, 9, 9, 64)


@pytest.mark.needs("kernel")
def test_convolutions_that_take_turns_on_one_thread_leave_nothing_to_each_other(tmp_path, ours):
    sessions = []
    for name, weights in (("small", random_weights(40, 3, 2, 2)), ("large", random_weights(24, 200, 3, 3))):
        (tmp_path / name).mkdir()
        path = convolution(tmp_path / name, weights, pads=[1, 1, 1, 1])
        x = np.random.default_rng(6).integers(0, 256, (3, 7, 7, weights.shape[1]), dtype=np.uint8)
        sessions.append((ours(path), x, opened(path).run(None, {"x": x})[0]))
    for session, x, expected in sessions * 3:
        assert np.array_equal(session.run(None, {"x": x})[0], expected)


# What it does not take.

@pytest.mark.needs("kernel")
@pytest.mark.parametrize("change", [
    {"group": 2}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"}, {"channels_last": 0}, {"w_zero": 3}, {"constant": False},
    {"strides": [2]}, {"strides": [1, 1, 1]}, {"dilations": [1, 0]}, {"pads": [1, 1]}, {"pads": [0, 0, 0, -1]},
    {"kernel_shape": [3, 2]},
], ids=str)
def test_a_convolution_that_it_cannot_do_is_refused_when_the_graph_is_opened(tmp_path, ours, change):
    path = convolution(tmp_path, random_weights(8, 8, 3, 3), **change)
    with pytest.raises(Exception, match=r"QLinearConv: expected|expected constants beside"):
        ours(path)


@pytest.mark.needs("kernel")
def test_signed_pictures_are_refused(tmp_path, ours):
    with pytest.raises(Exception, match="QLinearConv"):
        ours(convolution(tmp_path, random_weights(8, 8, 3, 3), signed=True))


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("name", ["x_scale", "x_zero", "w_scale", "y_zero", "bias"])
def test_numbers_that_are_missing_are_refused(tmp_path, ours, name):
    path = convolution(tmp_path, random_weights(8, 8, 3, 3))
    model = onnx.load(str(path))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1)[:0], name))
    onnx.save(model, str(path))
    with pytest.raises(Exception, match="expected one number, or one for each map"):
        ours(path)


@pytest.mark.needs("kernel")
def test_a_window_too_large_for_its_buffer_is_refused(tmp_path, ours):
    with pytest.raises(Exception, match="a window is too large"):
        ours(convolution(tmp_path, random_weights(2, 2048, 3, 3)))


@pytest.mark.needs("kernel")
def test_pictures_of_other_channels_are_refused_when_they_come(tmp_path, ours):
    session = ours(convolution(tmp_path, random_weights(8, 8, 3, 3)))
    with pytest.raises(Exception, match="expected pictures with channels last"):
        session.run(None, {"x": np.zeros((1, 5, 5, 9), np.uint8)})
