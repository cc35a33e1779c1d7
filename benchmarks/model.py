"""What one bundle costs without a server: opening it, and running it by size, batch and threads, beside plain onnxruntime
and torch. All that is compared takes turns, so that it meets the same noise."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.predict import machine
from shutterless.bundles import Bundle, as_portable
from shutterless.errors import ShutterlessError
from shutterless.sessions import open_session

if TYPE_CHECKING:
    from onnx import ModelProto

    from benchmarks.references.torch_eager import Eager

SERVED, PLAIN, PLAIN_FP32, TORCH = "this bundle", "onnxruntime", "onnxruntime, fp32", "torch eager, fp32"
LONGEST_S = 20.0  # of one row, if a round takes less
ROUND = 5
Engine = Callable[[NDArray[np.uint8]], object]
Step = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every combination of `sides` (pixels), `batches` and `threads` is a row of about `runs` runs an engine, fewer where they
    take long."""

    sides: tuple[int, ...]
    batches: tuple[int, ...] = (1, 8)
    threads: tuple[int, ...] = tuple(sorted({1, os.cpu_count() or 1}))
    runs: int = 100
    openings: int = 15


def measure(bundle: Bundle, plan: Plan, step: Step = lambda sentence: None) -> dict[str, Any]:
    """The report: JSON's types only."""
    manifest = bundle.manifest
    missing: dict[str, str] = {}
    step("session open")
    opened = measure_open(bundle, plan.openings)
    rows = []
    for side in plan.sides:
        with TemporaryDirectory() as scratch:
            step(f"{side} px: making what it is compared with")
            engines = _engines(bundle, side, Path(scratch), missing)
            for threads in plan.threads:
                calls = _calls(engines, threads)
                for batch in plan.batches:
                    step(f"{side} px, {threads} threads, batch {batch}")
                    rows.append({"side": side, "threads": threads, "batch": batch,
                                 "p50_ms": measure_runs(calls, side, batch, plan.runs)})
    return {"benchmark": "model", "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
            "onnxruntime": onnxruntime.__version__,
            "model": {"name": manifest.name, "version": manifest.version, "sha256": bundle.sha256,
                      "precision": manifest.precision, "side": manifest.input.side, "graph": bundle.graph()[0],
                      "opened_bytes": sum(manifest.files[path].bytes for path in bundle.needed)},
            "open": opened, "run": rows, "missing": missing}


def measure_open(bundle: Bundle, n: int) -> list[dict[str, Any]]:
    """Medians of `n` session openings each way; files come from the page cache, digests are not among it."""
    path, portable = bundle.folder / "model.onnx", as_portable(bundle)
    ways: dict[str, Callable[[], object]] = {
        'InferenceSession("model.onnx")': lambda: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]),
        "model.onnx, as doors open it": lambda: open_session(portable, 1)}
    if bundle.optimised:
        ways["optimised graph, as doors open it"] = lambda: open_session(bundle, 1)
    wall_ms: dict[str, list[float]] = {way: [] for way in ways}
    cpu_ms: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(n + 1):  # the first one warms up
        for way, opening in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            opening()
            cpu_ms[way].append(1000 * (time.process_time() - cpu))
            wall_ms[way].append(1000 * (time.perf_counter() - wall))
    return [{"way": way, "n": n, "cpu_ms": _median(cpu_ms[way][1:]), "wall_ms": _median(wall_ms[way][1:])} for way in ways]


def measure_runs(calls: dict[str, Engine], side: int, batch: int, runs: int) -> dict[str, float]:
    """Median milliseconds of each engine. They take turns of ROUND runs, of which the first is not counted: threads of the
    one before may still be spinning."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    times: dict[str, list[float]] = {engine: [] for engine in calls}
    until = time.perf_counter() + LONGEST_S
    for _ in range(0, runs, ROUND):
        for engine, call in calls.items():
            call(pixels)
            for _ in range(ROUND):
                begun = time.perf_counter()
                call(pixels)
                times[engine].append(1000 * (time.perf_counter() - begun))
        if time.perf_counter() > until:
            break
    return {engine: _median(taken) for engine, taken in times.items()}


def ratios(report: dict[str, Any]) -> dict[str, float]:
    """How many times faster: opening against plain, by CPU time; the bundle against each engine, one picture, one thread."""
    plain, *_, ours = report["open"]
    found = {"open": plain["cpu_ms"] / ours["cpu_ms"]}
    for row in report["run"]:
        served = row["p50_ms"].get(SERVED)
        if served and (row["batch"], row["threads"]) == (1, 1):
            found |= {engine: taken / served for engine, taken in row["p50_ms"].items() if engine != SERVED}
    return {name: round(value, 2) for name, value in found.items()}


def gains_of_int8(report: dict[str, Any]) -> dict[str, float]:
    """How many times faster an int8 bundle's graph is than fp32, by side in pixels: one picture, one thread."""
    rows = [row for row in report["run"] if (row["batch"], row["threads"]) == (1, 1) and PLAIN_FP32 in row["p50_ms"]]
    taken = {str(row["side"]): row["p50_ms"] for row in rows}
    return {side: round(p50[PLAIN_FP32] / p50.get(SERVED, p50[PLAIN]), 2) for side, p50 in taken.items()
            if SERVED in p50 or PLAIN in p50}


def engines_of(report: dict[str, Any]) -> list[str]:
    """Those that were measured, the bundle first."""
    measured = {engine for row in report["run"] for engine in row["p50_ms"]}
    return [engine for engine in (SERVED, PLAIN, PLAIN_FP32, TORCH) if engine in measured]


def draw(report: dict[str, Any], path: Path) -> None:
    """Session opening on the left, runs on the right, as PNG or SVG by the suffix of `path`. Raises ModuleNotFoundError
    without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, engines = report["run"][::-1], engines_of(report)
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 2 + 0.22 * len(rows) * len(engines)), width_ratios=(2, 3),
                                         layout="constrained")
    ways = report["open"][::-1]
    bars = left.barh([way["way"] for way in ways], [way["cpu_ms"] for way in ways], color="#2563eb")
    left.bar_label(bars, fmt="%.1f", padding=3)
    left.margins(x=0.15)
    left.set(xlabel="session open, ms of CPU (median)")
    height = 0.8 / len(engines)
    for i, engine in enumerate(engines):
        places = [(y - i * height, row["p50_ms"][engine]) for y, row in enumerate(rows) if engine in row["p50_ms"]]
        bars = right.barh([y for y, _ in places], [taken for _, taken in places], height, label=engine)
        right.bar_label(bars, fmt="%.1f", padding=3, fontsize=7)
    right.set_yticks([y - 0.4 + height / 2 for y in range(len(rows))],
                     [f"{row['side']} px, batch {row['batch']}, {row['threads']} thread{'s' * (row['threads'] > 1)}"
                      for row in rows])
    right.margins(x=0.1)
    right.set(xlabel="one run, ms (median)")
    model, host = report["model"], report["machine"]
    figure.suptitle(f"{model['name']}/{model['version']}, {model['precision']}: {host['cpu']}, {host['cpus']} CPUs, "
                    f"load {host['load_1m']:.1f}, onnxruntime {report['onnxruntime']}", fontsize=10)
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(engines), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


@dataclass(frozen=True)
class _Engines:
    """What can be asked about pictures of one side: the bundle where it is its own, graphs by engine, and torch."""

    bundle: Bundle | None
    graphs: dict[str, Path]
    eager: Eager | None


def _engines(bundle: Bundle, side: int, scratch: Path, missing: dict[str, str]) -> _Engines:
    """`missing` is told why an engine is not among them."""
    own, graphs = side == bundle.manifest.input.side, {}
    if own:
        graphs[PLAIN] = bundle.folder / "model.onnx"
    elif reason := _resize(bundle.folder / "model.onnx", side, scratch / "resized.onnx"):
        missing[f"{PLAIN}, {side} px"] = reason
    else:
        graphs[PLAIN] = scratch / "resized.onnx"
    eager = _eager(bundle, side, missing)
    if eager and bundle.manifest.precision != "fp32":
        eager.write(scratch / "fp32.onnx")
        graphs[PLAIN_FP32] = scratch / "fp32.onnx"
    return _Engines(bundle if own else None, graphs, eager)


def _resize(source: Path, side: int, target: Path) -> str:
    """Write a graph for pictures of another side; the reason where that cannot be."""
    try:
        import onnx
    except ModuleNotFoundError:
        return "onnx is not installed: make install-export"
    model = onnx.load(str(source))
    _renormalise(model, side)
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
        dimension.dim_value = side
    del model.graph.value_info[:]
    onnx.save(model, str(target))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # that it does not fit is said by us
    try:
        session = onnxruntime.InferenceSession(target, options, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, side, side, 3), np.uint8)})
    except Exception:  # onnxruntime's errors have no other common base
        return f"this graph takes no other side than its own: export it with --size {side}"
    return ""


def _renormalise(model: ModelProto, side: int) -> None:
    """What stands before the first layer, as model_export.graph.Serving writes it for rows of pixels, for rows of `side`."""
    from onnx import numpy_helper

    own = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in itertools.takewhile(lambda node: node.op_type not in ("Conv", "Gemm", "MatMul"), model.graph.node):
        for tensor in (held[name] for name in node.input if name in held):
            values = numpy_helper.to_array(tensor)
            if node.op_type == "Reshape":
                values = np.where(values == own, side, np.where(values == 3 * own, 3 * side, values))
            elif node.op_type in ("Mul", "Add") and values.shape == (3 * own,):
                values = np.resize(values, 3 * side)  # repeats red, green, blue
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _eager(bundle: Bundle, side: int, missing: dict[str, str]) -> Eager | None:
    manifest = bundle.manifest
    arch = manifest.source.get("architecture")
    try:
        from benchmarks.references.torch_eager import Eager

        if not isinstance(arch, str):
            missing[TORCH] = "the manifest names no architecture"
            return None
        return Eager(arch, len(manifest.labels), replace(manifest.input, size=side, crop=None, resize="squash"))
    except (ImportError, RuntimeError):  # torchvision beside a torch that does not fit raises RuntimeError
        missing[TORCH] = "torch is not installed: make install-export"
    except ShutterlessError:
        missing[TORCH] = f"{arch} is no architecture that can be built here by its name"
    return None


def _calls(engines: _Engines, threads: int) -> dict[str, Engine]:
    """Each engine as a call, with so many threads."""
    calls: dict[str, Engine] = {}
    if engines.bundle:
        calls[SERVED] = _asking(open_session(engines.bundle, threads))
    for engine, path in engines.graphs.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        calls[engine] = _asking(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    if eager := engines.eager:
        calls[TORCH] = lambda pixels: eager.run(pixels, threads)
    return calls


def _asking(session: onnxruntime.InferenceSession) -> Engine:
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)
