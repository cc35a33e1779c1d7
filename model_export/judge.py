"""Step 4: what the graph that serves is worth: accuracy, calibration, knowing strangers, and time."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model_export import metrics, report, runtime
from model_export.calibration import find_outliers
from model_export.parity import Parity, measure
from model_export.quantize import check_drop
from model_export.report import Section, percent
from model_export.runtime import Graph
from model_export.source import Source
from model_export.train import predict
from model_export.watched import Advance
from shutterless.manifests import weights_of

IN_DISTRIBUTION_SHARE = 0.99  # of the pictures of val lie above the threshold
OPENINGS = 5
Pixels = NDArray[np.uint8]


@dataclass
class Judgement:
    """For the manifest: `temperature`, `threshold` (nats) and `figures`; for people: `agreement` with torch by precision,
    `rows` and `sections`."""

    temperature: float = 1.0
    threshold: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    agreement: dict[str, Parity] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def judge(source: Source, pixels: Pixels, graphs: dict[str, Graph]) -> Judgement:
    """Compare torch with its graphs by precision, of which the last one serves; pixels uint8 (N, side, side, 3).

    The temperature and the threshold come from "val", every figure from "test". Raises ExportError when the int8 graph
    loses too much against the fp32 one.
    """
    assert source.pictures is not None  # noqa: S101 - the caller asked
    val, test, targets = source.parts["val"], source.parts["test"], source.pictures.targets
    judgement, serving = Judgement(), list(graphs.values())[-1]
    torch = predict(source.model, pixels, test, source.spec)
    logits = {"torch": torch} | {kind: runtime.run(graph, pixels, test) for kind, graph in graphs.items()}
    judgement.agreement = {kind: measure(torch, logits[kind]) for kind in graphs}
    judgement.figures["agreement"] = {kind: asdict(found) for kind, found in judgement.agreement.items()}
    accuracy = {kind: metrics.accuracy(values, targets[test]) for kind, values in logits.items()}
    judgement.figures["accuracy"] = {kind: asdict(found) for kind, found in accuracy.items()}
    judgement.rows += [(f"top-1, {kind}", percent(found)) for kind, found in accuracy.items()]
    if "int8" in graphs:
        _judge_drop(judgement, pixels, np.concatenate([val, test]), targets, graphs)
    last = list(logits.values())[-1]
    _calibrate(judgement, runtime.run(serving, pixels, val), targets[val], last, targets[test])
    judgement.sections = report.accuracy_sections(last, targets[test], source.labels, judgement.temperature)
    return judgement


def _judge_drop(judgement: Judgement, pixels: Pixels, indices: NDArray[np.int64], targets: metrics.Targets,
                graphs: dict[str, Graph]) -> None:
    """On val and test together: neither was trained on, and the more pictures, the narrower the interval."""
    fp32, int8 = (runtime.run(graphs[kind], pixels, indices) for kind in ("fp32", "int8"))
    drop = check_drop(fp32, int8, targets[indices])
    judgement.figures["int8_drop_points"] = asdict(drop)
    judgement.rows.append(("lost by int8, points", f"{drop.points:.2f} (95 % interval of the paired difference "
                           f"{drop.low:+.2f} to {drop.high:+.2f}, n = {drop.n})"))


def _calibrate(judgement: Judgement, on_val: metrics.Logits, val: metrics.Targets, on_test: metrics.Logits,
               test: metrics.Targets) -> None:
    judgement.temperature = round(metrics.fit_temperature(on_val, val), 4)
    judgement.threshold = round(float(np.quantile(metrics.energy(on_val), 1 - IN_DISTRIBUTION_SHARE)), 4)
    error = metrics.reliability(on_test, test, judgement.temperature).error
    kept = metrics.share(int((metrics.energy(on_test) >= judgement.threshold).sum()), len(test))
    judgement.figures["calibration"] = {"expected_calibration_error": round(error, 5), "n": len(test), "fitted_on": len(val)}
    judgement.figures["in_distribution"] = {"kept": asdict(kept)}


def judge_outliers(judgement: Judgement, source: Source, pixels: Pixels, serving: Graph, outliers: str,
                   advance: Advance = lambda n, total: None) -> None:
    """AUROC of the energy score: test pictures against pictures of another kind. Without a threshold nothing is told apart."""
    if judgement.threshold is None:
        judgement.rows.append(("told from pictures of another kind", "not measured: too few pictures to choose a threshold on"))
        return
    strange, said = find_outliers(outliers, source.spec, advance)
    inside = metrics.energy(runtime.run(serving, pixels, source.parts["test"]))
    outside = metrics.energy(runtime.run(serving, strange, np.arange(len(strange))))
    threshold = judgement.threshold
    kept, refused = (metrics.share(int(found.sum()), len(found)) for found in (inside >= threshold, outside < threshold))
    found = metrics.auroc(inside, outside)
    judgement.figures["in_distribution"] |= {"auroc": round(found, 4), "strangers_refused": asdict(refused)}
    judgement.rows.append(("pictures of another kind", said))
    judgement.rows.append(("told from pictures of another kind", f"AUROC {found:.4f}; {percent(refused)} of them refused"))
    judgement.sections.append(report.strangers_section(inside, outside, threshold, kept, refused))


def judge_speed(judgement: Judgement, portable: Path, serving: Graph, side: int, compared: int = 0) -> None:
    """What the graph that serves costs: bytes, opening, one picture, and the operators that run.

    compared: the number of pictures on which it answered bit for bit like the portable one.
    """
    operators, timed = runtime.executed_operators(serving), latency(portable, serving, side)
    judgement.figures |= {"operators": dict(operators.most_common()), "latency": timed}
    weighed = sorted(portable.parent.glob(f"{portable.stem}*.onnx"), key=lambda path: (path != portable, path.name))
    files = [file for path in weighed for file in (path, path.with_name(weights_of(path.name))) if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    judgement.rows += [
        ("graphs and weights", f"{size:.2f} MB, {side} px"),
        ("session.run, one picture, one thread",
         f"{timed['run_p50_ms']:.2f} ms (median of {timed['n']}, {timed['processor']})"),
        ("session open", f"{timed['session_open_ms']:.0f} ms; plain {timed['session_open_plain_ms']:.0f} ms")]
    judgement.sections += [report.cost_section(files, serving, timed, compared), report.operators_section(operators)]


def latency(portable: Path, serving: Graph, side: int, *, threads: int = 1, n: int = 100) -> dict[str, Any]:
    """Milliseconds: the median of `n` runs on one picture, and of opening the session: as the doors do it, the portable
    graph as they do it, and as `InferenceSession(path)` does it."""
    open_ms = {"": lambda: runtime.open_session(serving, threads), "_portable": lambda: runtime.open_session(portable, threads),
               "_plain": lambda: ort.InferenceSession(str(portable), providers=["CPUExecutionProvider"])}
    opened = {f"session_open{name}_ms": round(_median_ms(opening, OPENINGS), 1) for name, opening in open_ms.items()}
    session = runtime.open_session(serving, threads)
    feed = {session.get_inputs()[0].name: np.zeros((1, side, side, 3), np.uint8)}
    _median_ms(lambda: session.run(None, feed), 10)
    return opened | {"run_p50_ms": round(_median_ms(lambda: session.run(None, feed), n), 3), "n": n, "batch": 1,
                     "threads": threads, "processor": _processor()}


def _median_ms(call: Callable[[], object], n: int) -> float:
    times = []
    for _ in range(n):
        begun = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
