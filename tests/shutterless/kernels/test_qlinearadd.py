"""Our own int8 additions give each bit that onnxruntime's give."""

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

Bytes = NDArray[np.uint8]
ODD = [0, 1e-45, 1e-38, 1e-20, 0.25, 1, 1e7, 1e38, -1, np.inf, -np.inf, np.nan]
SCALES = (0.021, 0.013, 0.034)  # of a, b and their sum


def addition(folder: Path, scales: tuple[float, float, float] = SCALES, zeros: tuple[int, int, int] = (3, 250, 7), *,
             rank: int = 0, signed: bool = False, without: str = "", changing: str = "") -> Path:
    """A graph of one QLinearAdd (a, b) -> y, of any shapes. without: a number. changing: one that is given with a and b."""
    byte, kind = (np.int8, TensorProto.INT8) if signed else (np.uint8, TensorProto.UINT8)
    tensors = {}
    for side, scale, zero in zip("aby", scales, zeros, strict=True):
        tensors[f"{side}_scale"] = np.full((1,) * rank, scale, np.float32)
        tensors[f"{side}_zero"] = np.full((1,) * rank, zero).astype(byte)
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"]
    node = helper.make_node("QLinearAdd", ["" if name == without else name for name in names], ["y"], domain="com.microsoft")
    inputs = [helper.make_tensor_value_info(side, kind, None) for side in "ab"]
    if changing:
        number = tensors[changing]
        inputs.append(helper.make_tensor_value_info(changing, helper.np_dtype_to_tensor_dtype(number.dtype), number.shape))
    kept = [numpy_helper.from_array(value, name) for name, value in tensors.items() if name not in (without, changing)]
    graph = helper.make_graph([node], "addition", inputs, [helper.make_tensor_value_info("y", kind, None)], kept)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
                                ir_version=10), str(folder / "addition.onnx"))
    return folder / "addition.onnx"


@pytest.fixture
def ours(int8_kernel) -> Callable[[Path], ort.InferenceSession]:
    """Opens a graph with a kernel."""
    return lambda path: opened(path, int8_kernel)


def drawn(random: np.random.Generator) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Scales and zeros: any, such that sums lie halfway between bytes, or such that hardly any are bytes."""
    scales = (random.uniform(0.001, 0.1, 3), random.integers(1, 64, 3) / random.choice([8, 16, 32, 64]),
              2 ** random.uniform(-30, 30, 3), random.choice(ODD, 3))[random.integers(4)]
    zeros = np.where(random.integers(2, size=3), random.integers(256, size=3), random.choice([0, 128, 255], 3))
    return tuple(map(float, scales)), tuple(map(int, zeros))


def pairs() -> tuple[Bytes, Bytes]:
    a, b = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    return a.ravel(), b.ravel()


def sums(session: ort.InferenceSession, a: Bytes, b: Bytes) -> Bytes:
    return np.asarray(session.run(None, {"a": a, "b": b})[0])


# Bit for bit.

@pytest.mark.needs("kernel")
def test_every_pair_of_bytes_is_added_as_without_it(tmp_path, ours):
    a, b = pairs()
    random = np.random.default_rng(1)
    for _ in range(300):
        scales, zeros = drawn(random)
        path = addition(tmp_path, scales, zeros)
        assert np.array_equal(sums(ours(path), a, b), sums(opened(path), a, b)), (scales, zeros)


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_scales_that_leave_no_number_end_as_without_it(tmp_path, ours, which, odd):
    path = addition(tmp_path, tuple(odd if i == which else scale for i, scale in enumerate(SCALES)))
    assert np.array_equal(sums(ours(path), *pairs()), sums(opened(path), *pairs()))


@pytest.mark.needs("kernel")
def test_all_sizes_are_added_as_without_it_and_no_byte_is_written_beyond(tmp_path, ours):
    path = addition(tmp_path)
    session, builtin = ours(path), opened(path)
    a, b = np.random.default_rng(2).integers(0, 256, (2, 200), dtype=np.uint8)
    for size in range(201):
        expected = sums(builtin, a[:size], b[:size])
        assert np.array_equal(sums(session, a[:size], b[:size]), expected)
        whole = np.full(264, 99, np.uint8)
        binding = session.io_binding()
        for side, numbers in (("a", a), ("b", b)):
            binding.bind_cpu_input(side, numbers[:size])
        binding.bind_output("y", "cpu", 0, np.uint8, [size], whole.ctypes.data)
        session.run_with_iobinding(binding)
        assert np.array_equal(whole[:size], expected)
        assert (whole[size:] == 99).all()


@pytest.mark.needs("kernel")
@pytest.mark.parametrize(("a", "b"), [
    ((), ()), ((1,), ()), ((), (1, 1)), ((), (200,)), ((200,), ()), ((200,), (1,)), ((1, 1, 1), (3, 70)),
    ((2, 5, 5, 70), (70,)), ((70,), (2, 5, 5, 70)), ((2, 7, 5, 5), (7, 1, 1)), ((2, 7, 1, 1), (2, 7, 9, 9)), ((130, 1), (1, 130)),
    ((130, 1), (1,)), ((1,), (130, 1)), ((130, 1), ()), ((4, 1, 3, 1, 5, 1), (1, 2, 3, 4, 1, 1)),
    ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6)), ((2, 1, 2, 1, 2, 1, 2, 1, 67), (1,) * 9),
    ((0,), (0,)), ((0, 4), (4,)), ((3, 0, 4), (1, 1, 1)), ((1,), (0,)), ((0,), ()),
], ids=str)
def test_shapes_that_differ_are_added_as_without_it(tmp_path, ours, a, b):
    random = np.random.default_rng(3)
    sides = [np.asarray(random.integers(0, 256, shape), np.uint8) for shape in (a, b)]
    for _ in range(20):
        path = addition(tmp_path, *drawn(random))
        found, expected = sums(ours(path), *sides), sums(opened(path), *sides)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


@pytest.mark.needs("kernel")
def test_shapes_that_differ_are_added_as_without_it_whatever_they_are(tmp_path, ours):
    random = np.random.default_rng(4)
    for _ in range(1000):
        path = addition(tmp_path, *drawn(random))
        shape = random.choice([1, 2, 3, 5, 70], random.integers(6), p=[0.3, 0.2, 0.2, 0.2, 0.1])
        shapes = [np.where(random.random(len(shape)) < 0.3, 1, shape)[int(random.integers(3)):] for _ in "ab"]
        a, b = (np.asarray(random.integers(0, 256, each), np.uint8) for each in shapes)
        assert np.array_equal(sums(ours(path), a, b), sums(opened(path), a, b)), (a.shape, b.shape)


@pytest.mark.needs("kernel")
def test_one_session_adds_on_many_threads(tmp_path, ours):
    path = addition(tmp_path)
    session = ours(path)
    a, b = pairs()
    expected = sums(opened(path), a, b)

    def run(count: int) -> bool:
        return all(np.array_equal(sums(session, a[:count], b[:count]), expected[:count]) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(65000, 65017)))


# What it does not take.

@pytest.mark.needs("kernel")
def test_signed_bytes_are_refused(tmp_path, ours):
    path = addition(tmp_path, zeros=(3, 4, 5), signed=True)
    opened(path)
    with pytest.raises(Exception, match="QLinearAdd"):
        ours(path)


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("number", ["a_scale", "a_zero", "b_scale", "b_zero", "y_scale", "y_zero"])
def test_numbers_that_are_no_constants_are_refused(tmp_path, ours, number):
    path = addition(tmp_path, changing=number)
    opened(path)
    with pytest.raises(Exception, match="expected constants beside"):
        ours(path)


@pytest.mark.needs("kernel")
@pytest.mark.parametrize("zero", ["a_zero", "b_zero", "y_zero"])
def test_zeros_that_are_missing_are_refused(tmp_path, ours, zero):
    with pytest.raises(Exception, match=r"QLinearAdd|expected constants beside"):
        ours(addition(tmp_path, without=zero))


@pytest.mark.needs("kernel")
def test_more_numbers_than_one_are_refused(tmp_path, ours):
    with pytest.raises(Exception, match="QLinearAdd: expected one number"):
        ours(addition(tmp_path, rank=2))


@pytest.mark.needs("kernel")
def test_shapes_that_do_not_fit_to_each_other_are_refused_when_they_come(tmp_path, ours):
    path = addition(tmp_path)
    for shapes in (((2,), (3,)), ((0,), (2,)), ((4, 3), (4, 1, 2))):
        sides = [np.zeros(shape, np.uint8) for shape in shapes]
        with pytest.raises(Exception, match="QLinearAdd: expected shapes that fit"):
            sums(ours(path), *sides)
        with pytest.raises(Exception, match="broadcast"):
            sums(opened(path), *sides)
