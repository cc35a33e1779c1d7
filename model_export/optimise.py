"""Step 5: a bundle that opens fast: weights in a file that is mapped, optimisation done once, for one class of machines.

What onnxruntime makes of a graph depends on its own version and, on x86-64, on one thing of the CPU: whether there is
AVX-512, for which it lays fp32 convolutions out in blocks of 16 channels instead of 8 (mlas/lib/platform.cpp). A graph
without such blocks, as int8 ones are, comes out the same on every x86-64. On Arm nobody has looked as closely: there
the features that its int8 kernels ask for must be equal.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from model_export import runtime
from model_export.batched import keep_weights_once, with_int8_products, with_products
from model_export.errors import ExportError
from model_export.runtime import Graph
from model_export.unfinished import written_whole
from shutterless.bundles import Bundle
from shutterless.classifier import softmax
from shutterless.hardware import Machine, this_machine
from shutterless.manifests import BundleFile, OptimisedGraph, is_slug, parse_manifest, weights_of
from shutterless.signatures import SIGNATURE

BLOCKS = "com.microsoft.nchwc"  # the domain of what works on blocks of channels
ARM_FEATURES = ("asimddp", "i8mm")
ALIGNMENT = 64  # bytes: a cache line, and the longest vector
LEAST_BYTES = 1024  # what is smaller stays in the graph
TOLERANCE = 2e-6  # of confidence: how far a batch's answer may be from a single picture's, before a temperature makes it more
Places = dict[tuple[bytes, int], tuple[str, int]]  # digest and length of a tensor -> file and offset


def pack(source: Path, target: Path) -> None:
    """Write a portable graph with its weights in `target`.data, each once, and without its exporter's notes."""
    model = _load(source)
    for node in _nodes(model.graph):
        node.ClearField("metadata_props")  # stack traces, with paths of this machine
        node.ClearField("doc_string")
    _move_weights(model, target.with_name(weights_of(target.name)), {})
    onnx.save(model, str(target))


def make_serving(source: Path, portable: Path, when: str,
                 pixels: NDArray[np.uint8]) -> tuple[Graph, tuple[OptimisedGraph, ...]]:
    """Pack `source` as `portable` and optimise that: the graph that serves here, and what the manifest is told of it and of the
    one for batches.

    What an earlier call wrote for another `source` is replaced.
    """
    for written in portable.parent.glob(f"{portable.stem}.*"):
        written.unlink()
    pack(source, portable)
    optimised = optimise(portable, when, pixels)
    if optimised is None:
        return Graph(portable), ()
    batched = optimise_for_batches(portable, optimised, pixels)
    return Graph(portable.with_name(optimised.graph), optimised=True), (optimised, *([batched] if batched else []))


def optimise(portable: Path, when: str = "always", pixels: NDArray[np.uint8] | None = None) -> OptimisedGraph | None:
    """Write a graph for machines like this one beside `portable`, and compare their answers to pixels (N, side, side, 3).

    Weights that both have stay in `portable`.data; where fewer than half are the same (fp32 convolutions are laid out
    anew), the graph gets a file of its own with all of them, so that nobody reads two. None with `when` "never", with
    "shared" where it would need that file, and on machines whose features are unknown.
    Raises ExportError when an answer differs in a single bit.
    """
    machine = this_machine()
    if when == "never" or machine.cpu is None:
        return None
    with TemporaryDirectory() as scratch:
        written = Path(scratch) / "optimised.onnx"
        runtime.write_optimised(portable, written)
        model = _load(written)
    cpu = _needs(model, machine)
    target = portable.with_name(f"{portable.stem}.{_class(machine.system, cpu)}.ort-{ort.__version__}.onnx")
    if target.exists():
        raise ExportError(f"{target.name} is there already: the bundle opens fast on machines like this one.")
    there = _places(portable)
    sizes = {key: key in there for key in map(_key, _movable(model))}
    shared = 2 * sum(size for (_, size), known in sizes.items() if known) >= sum(size for _, size in sizes)
    if not shared and when == "shared":
        return None
    weights = _move_weights(model, target.with_name(weights_of(target.name)), there if shared else {})
    onnx.save(model, str(target))
    _compare(portable, Graph(target, optimised=True), pixels)
    return OptimisedGraph(of=portable.name, graph=target.name, weights=weights, ort=ort.__version__, system=machine.system,
                          cpu=cpu)


def optimise_for_batches(portable: Path, single: OptimisedGraph,
                         pixels: NDArray[np.uint8] | None = None) -> OptimisedGraph | None:
    """Write a graph for several pictures at a time beside `single`, the one for single ones, with the weights that are there.

    None where the network has no convolution that gains by it. Raises ExportError when an answer differs: by more than TOLERANCE
    where fp32 was replaced, else in a single bit.
    """
    model = _load(portable)
    count = with_products(model)
    if count:
        model = _optimised(model)
        keep_weights_once(model, _load(portable))
    else:
        model = _load(portable.with_name(single.graph))
    if with_int8_products(model) + count == 0:
        return None
    target = portable.with_name(f"{single.graph.removesuffix('.onnx')}.batches.onnx")
    there = _places(portable) | _places(portable.with_name(single.graph))
    weights = _move_weights(model, target.with_name(weights_of(target.name)), there)
    onnx.save(model, str(target))
    _compare(portable, Graph(target, batches=True), pixels, tolerance=TOLERANCE if count else 0.0)
    return replace(single, graph=target.name, weights=weights, batches=True)


def _optimised(model: ModelProto) -> ModelProto:
    with TemporaryDirectory() as scratch:
        source, written = Path(scratch) / "source.onnx", Path(scratch) / "optimised.onnx"
        onnx.save(model, str(source))
        runtime.write_optimised(source, written)
        return _load(written)


def bundle_files(folder: Path) -> dict[str, BundleFile]:
    """Length and digest of every graph in `folder`, and of every file of weights."""
    found = {}
    for path in sorted([*folder.glob("*.onnx"), *folder.glob("*.onnx.data")]):
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found[path.name] = BundleFile(sha256=digest, bytes=path.stat().st_size)
    return found


def add(bundle: Bundle, version: str | None = None) -> Path:
    """Write another version of `bundle`, beside it, with a graph for machines like this one; returns its folder.

    A version never changes, and the manifest's digest is part of every answer: so it is a new one, by default the next
    number. A signature is of the old one, and is not copied. Raises ExportError when there are such graphs already, none can be
    made here, or that version exists.
    """
    version = version or _next(bundle.manifest.version)
    if bundle.optimised and bundle.batched:
        raise _nothing_to_add(bundle)
    if not is_slug(version):
        raise ExportError(f"--version: expected letters, digits, dots, dashes and underscores, got {version!r}. Give another: "
                          "--version.")
    target = bundle.folder.with_name(version)
    with written_whole(target) as folder:
        shutil.copytree(bundle.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIGNATURE))
        _add(bundle, folder, version)
    return target


def _nothing_to_add(bundle: Bundle) -> ExportError:
    return ExportError(f"{bundle.graph()[0]} was made for machines like this one already. There is nothing to add.")


def _add(bundle: Bundle, folder: Path, version: str) -> None:
    manifest, portable = bundle.manifest, folder / "model.onnx"
    if weights_of(portable.name) not in manifest.files:  # made before weights were kept apart
        pack(bundle.folder / portable.name, portable)
    side = manifest.input.side
    noise = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    single = bundle.optimised[0] if bundle.optimised else optimise(portable, pixels=noise)
    if single is None:
        raise ExportError("This machine does not tell what its CPU can do, so a graph made here would fit no other. Run it on "
                          "the machine that is to serve.")
    batched = optimise_for_batches(portable, single, noise)
    made = [graph for graph in (single, batched) if graph and graph not in manifest.optimised]
    if not made:
        raise _nothing_to_add(bundle)
    source = manifest.source | {"optimised_from": {"version": manifest.version, "sha256": bundle.sha256}}
    text = replace(manifest, version=version, files=manifest.files | bundle_files(folder), source=source,
                   optimised=(*manifest.optimised, *made)).to_json()
    parse_manifest(text)
    (folder / "manifest.json").write_text(text)


def _next(version: str) -> str:
    """9 -> 10, 1.9 -> 1.10."""
    start, number = re.fullmatch(r"(.*?)(\d*)", version).groups()  # type: ignore[union-attr] # it fits any text
    if not number:
        raise ExportError(f"There is no number after {version} to count on. Give one: --version.")
    return f"{start}{int(number) + 1}"


def _compare(portable: Path, graph: Graph, pixels: NDArray[np.uint8] | None, *, tolerance: float = 0.0) -> None:
    if pixels is None:
        return
    everything = np.arange(len(pixels))
    expected, got = runtime.run(portable, pixels, everything), runtime.run(graph, pixels, everything)
    differences = np.abs(softmax(got.astype(np.float64)) - softmax(expected.astype(np.float64)))
    if not (differences.max() <= tolerance if tolerance else np.array_equal(got, expected)):
        bound = f"to {tolerance:g} in confidence" if tolerance else "bit for bit"
        raise ExportError(f"{graph.path.name} does not answer {bound} like {portable.name}: on {len(pixels)} pictures the "
                          f"largest difference of a logit is {np.abs(expected - got).max():.2e}. Leave it out: "
                          "--optimise never.")


def _needs(model: ModelProto, machine: Machine) -> dict[str, bool]:
    """The features on which it depends what onnxruntime makes of a graph, as they are here."""
    cpu = machine.cpu or frozenset()
    if machine.system.endswith("arm64"):
        return {feature: feature in cpu for feature in ARM_FEATURES}
    return {"avx512f": "avx512f" in cpu} if any(node.domain == BLOCKS for node in _nodes(model.graph)) else {}


def _class(system: str, cpu: dict[str, bool]) -> str:
    return "-".join([system, *(feature if there else f"no-{feature}" for feature, there in cpu.items())])


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All of them, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _load(path: Path) -> ModelProto:
    """With all tensors inside, as plain bytes."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return model


def _movable(model: ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= LEAST_BYTES]


def _key(tensor: TensorProto) -> tuple[bytes, int]:
    return hashlib.sha256(tensor.raw_data).digest(), len(tensor.raw_data)


def _places(portable: Path) -> Places:
    """Where a packed graph's tensors are."""
    found: Places = {}
    for tensor in onnx.load(str(portable), load_external_data=False).graph.initializer:
        at = {entry.key: entry.value for entry in tensor.external_data}
        if at:
            with portable.with_name(at["location"]).open("rb") as file:
                file.seek(int(at["offset"]))
                content = file.read(int(at["length"]))
            found[hashlib.sha256(content).digest(), len(content)] = at["location"], int(at["offset"])
    return found


def _move_weights(model: ModelProto, file: Path, there: Places) -> tuple[str, ...]:
    """Take the tensors out of the graph: to their places in files that are there, or into `file`. The files it refers to."""
    places, used, end = dict(there), set(), 0
    with file.open("wb") as stream:
        for tensor in _movable(model):
            key = _key(tensor)
            if key not in places:
                stream.write(b"\0" * (-end % ALIGNMENT))
                places[key] = file.name, end + -end % ALIGNMENT
                end = places[key][1] + stream.write(tensor.raw_data)
            location, offset = places[key]
            used.add(location)
            _refer(tensor, location, offset, key[1])
    if not end:
        file.unlink()
    return tuple(sorted(used))


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for name, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=name, value=str(value))
