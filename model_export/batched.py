"""Convolutions over small maps as products of matrices, for batches.

onnxruntime runs a convolution picture by picture: where a map has a few pixels, each picture reads all weights again for a
few rows of output. A product of matrices takes the pixels of all pictures as its rows, and reads them once per batch. So
each convolution whose output has at most PIXELS pixels becomes its windows, gathered side by side (im2col: Chellapilla, Puri,
Simard, High Performance Convolutional Neural Networks for Document Processing, 2006), times its weights. Single pictures lose
a little by it, so it is a graph beside the other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

PIXELS = 16
CONTRIB = "com.microsoft"
BY_WINDOW = "_by_window"  # ends the name of weights that are laid out as windows are
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
Shapes = dict[str, tuple[int, ...]]


def with_products(portable: ModelProto) -> int:
    """Replace the convolutions of a portable fp32 graph, in place, by Gemm; how many there were. Weights have to be inside."""
    return _rewrite(portable, _as_gemm)


def with_int8_products(optimised: ModelProto) -> int:
    """Replace those of an int8 graph that onnxruntime has optimised, in place, by QGemm; how many there were."""
    return _rewrite(optimised, _as_qgemm)


def keep_weights_once(model: ModelProto, portable: ModelProto) -> None:
    """Take back what onnxruntime made of weights that a portable graph has in another order: it is made again when the graph is
    opened, so that one file of weights does for both."""
    originals = {f"{tensor.name}{BY_WINDOW}": tensor for tensor in portable.graph.initializer}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in originals]:
        original = originals[tensor.name]
        if tensor.raw_data == original.raw_data:
            continue
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(original)
        for place, node in enumerate(_turned(model, original.name, tuple(original.dims))):
            model.graph.node.insert(place, node)


def _rewrite(model: ModelProto, replacement: Any) -> int:
    shapes = _shapes(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    count = 0
    for node in model.graph.node:
        made = replacement(model, node, shapes, weights)
        count += made is not None
        nodes += [node] if made is None else made
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    del model.graph.value_info[:]
    return count


def _as_gemm(model: ModelProto, node: NodeProto, shapes: Shapes, weights: dict[str, TensorProto]) -> list[NodeProto] | None:
    if node.op_type != "Conv" or node.domain or node.input[1] not in weights:
        return None
    _, channels, *size = shapes[node.input[0]]
    _, maps, *out = shapes[node.output[0]]
    if not _is_small(node, size, out) or weights[node.input[1]].data_type != TensorProto.FLOAT:
        return None
    y = node.output[0]
    return [
        helper.make_node("Transpose", [node.input[0]], [f"{y}_rows"], perm=CHANNELS_LAST),
        *_windows(model, node, f"{y}_rows", "", (channels, *size), (*weights[node.input[1]].dims[2:], *out)),
        *_matrix(model, node.input[1], weights),
        helper.make_node("Gemm", [f"{y}_windows", f"{node.input[1]}{BY_WINDOW}", *node.input[2:]], [f"{y}_product"], transB=1),
        helper.make_node("Reshape", [f"{y}_product", _shape(model, f"{y}_shape", -1, *out, maps)], [f"{y}_map"]),
        helper.make_node("Transpose", [f"{y}_map"], [y], perm=CHANNELS_FIRST)]


def _as_qgemm(model: ModelProto, node: NodeProto, shapes: Shapes, weights: dict[str, TensorProto]) -> list[NodeProto] | None:
    if node.op_type != "QLinearConv" or not _attribute(node, "channels_last", 0) or node.input[3] not in weights:
        return None
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = node.input
    _, *size, channels = shapes[x]
    _, *out, maps = shapes[node.output[0]]
    if not _is_small(node, size, out):
        return None
    y = node.output[0]
    inputs = [f"{y}_windows", x_scale, x_zero, f"{w}{BY_WINDOW}", w_scale, w_zero, *(bias or [""]), y_scale, y_zero]
    return [
        *_windows(model, node, x, x_zero, (channels, *size), (*weights[w].dims[2:], *out)),
        *_matrix(model, w, weights),
        helper.make_node("QGemm", inputs, [f"{y}_product"], domain=CONTRIB, transB=1),
        helper.make_node("Reshape", [f"{y}_product", _shape(model, f"{y}_shape", -1, *out, maps)], [y])]


def _is_small(node: NodeProto, size: list[int], out: list[int]) -> bool:
    """Whether it is an ordinary convolution of planes, and its output a small one."""
    return (len(size) == 2 and out[0] * out[1] <= PIXELS and _attribute(node, "group", 1) == 1
            and _attribute(node, "auto_pad", b"NOTSET") == b"NOTSET")


def _windows(model: ModelProto, node: NodeProto, x: str, zero: str, seen: tuple[int, ...],
             seeing: tuple[int, ...]) -> Iterator[NodeProto]:
    """x (N, rows, columns, channels) -> a row for each pixel of the output: what its window sees, channels innermost.

    zero: name of what stands for 0 in x, if it is another number. seen: channels, rows and columns of x. seeing: rows and columns
    of a window, and those in which all windows stand.
    """
    y, (channels, *size), (*kernel, rows, columns) = node.output[0], seen, seeing
    steps, gaps = (_attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    pads = _attribute(node, "pads", [0] * 4)
    if kernel != [1, 1] or steps != [1, 1] or any(pads):
        if any(pads):
            border = _shape(model, f"{y}_pads", 0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0)
            yield helper.make_node("Pad", [x, border, *([zero] if zero else [])], [f"{y}_padded"])
            x, size = f"{y}_padded", [size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3]]
        down = np.add.outer(np.arange(rows) * steps[0], np.arange(kernel[0]) * gaps[0])
        right = np.add.outer(np.arange(columns) * steps[1], np.arange(kernel[1]) * gaps[1])
        places = down[:, None, :, None] * size[1] + right[None, :, None, :]
        model.graph.initializer.append(numpy_helper.from_array(places.reshape(-1).astype(np.int32), f"{y}_places"))
        yield helper.make_node("Reshape", [x, _shape(model, f"{y}_flat", -1, size[0] * size[1], channels)], [f"{y}_pixels"])
        yield helper.make_node("Gather", [f"{y}_pixels", f"{y}_places"], [f"{y}_seen"], axis=1)
        x = f"{y}_seen"
    yield helper.make_node("Reshape", [x, _shape(model, f"{y}_row", -1, kernel[0] * kernel[1] * channels)], [f"{y}_windows"])


def _matrix(model: ModelProto, name: str, weights: dict[str, TensorProto]) -> list[NodeProto]:
    """Weights (maps, channels, rows, columns) as a matrix of a row for each map, in the order of `_windows`."""
    dims = tuple(weights[name].dims)
    if dims[2:] != (1, 1):
        return _turned(model, name, dims)
    flat = TensorProto()
    flat.CopyFrom(weights[name])
    flat.name = f"{name}{BY_WINDOW}"
    flat.dims[:] = dims[:2]
    model.graph.initializer.append(flat)
    return []


def _turned(model: ModelProto, name: str, dims: tuple[int, ...]) -> list[NodeProto]:
    return [helper.make_node("Transpose", [name], [f"{name}_turned"], perm=CHANNELS_LAST),
            helper.make_node("Reshape", [f"{name}_turned", _shape(model, f"{name}_matrix", dims[0], -1)], [f"{name}{BY_WINDOW}"])]


def _shape(model: ModelProto, name: str, *numbers: int) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    return name


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name), default)


def _shapes(model: ModelProto) -> Shapes:
    """Of what convolutions take and give for one picture, found by running them: inference of shapes knows ONNX's own operators
    only."""
    probe = ModelProto()
    probe.CopyFrom(model)
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "QLinearConv")]
    names = sorted({name for node in convolutions for name in (node.input[0], node.output[0])})
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "probe.onnx"
        onnx.save(probe, str(path), save_as_external_data=True)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        _, *size = session.get_inputs()[0].shape
        found = session.run(names, {session.get_inputs()[0].name: np.zeros((1, *size), np.uint8)}) if names else []
    return {name: value.shape for name, value in zip(names, found, strict=True)}
