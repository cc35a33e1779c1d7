"""Step 4a: what a graph is worth: accuracy, calibration, knowing strangers, and time, each with what it stands on."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_export import metrics, report, runtime
from model_export.datasets import find_outliers
from model_export.quantize import check_drop
from model_export.report import Section, percent
from model_export.source import Source
from model_export.train import predict

IN_DISTRIBUTION_SHARE = 0.99  # of the pictures of val lie above the threshold
Pixels = NDArray[np.uint8]


@dataclass
class Judgement:
    """For the manifest: `temperature`, `threshold` (nats) and `figures`; for people: `rows` and `sections`."""

    temperature: float = 1.0
    threshold: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def judge(source: Source, pixels: Pixels, fp32: Path, final: Path) -> Judgement:
    """Compare torch, the fp32 graph and the final one on the pictures kept for it; pixels uint8 (N, side, side, 3).

    The temperature and the threshold come from "val", every figure from "test". Raises ExportError when `final` is another
    graph than `fp32` and loses too much.
    """
    assert source.pictures is not None  # noqa: S101 - the caller asked
    val, test, targets = source.parts["val"], source.parts["test"], source.pictures.targets
    judgement = Judgement()
    logits = {"torch": predict(source.model, pixels, test, source.spec), "fp32": runtime.run(fp32, pixels, test)}
    if final != fp32:
        logits["int8"] = runtime.run(final, pixels, test)
        _judge_drop(judgement, pixels, np.concatenate([val, test]), targets, fp32, final)
    accuracy = {kind: metrics.accuracy(values, targets[test]) for kind, values in logits.items()}
    judgement.figures["accuracy"] = {kind: asdict(found) for kind, found in accuracy.items()}
    judgement.rows[:0] = [(f"top-1, {kind}", percent(found)) for kind, found in accuracy.items()]
    last = list(logits.values())[-1]
    _calibrate(judgement, runtime.run(final, pixels, val), targets[val], last, targets[test])
    judgement.sections = report.accuracy_sections(last, targets[test], source.labels, judgement.temperature)
    return judgement


def _judge_drop(judgement: Judgement, pixels: Pixels, indices: NDArray[np.int64], targets: metrics.Targets, fp32: Path,
                final: Path) -> None:
    """On val and test together: neither was trained on, and the more pictures, the narrower the interval."""
    drop = check_drop(runtime.run(fp32, pixels, indices), runtime.run(final, pixels, indices), targets[indices])
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


def judge_outliers(judgement: Judgement, source: Source, pixels: Pixels, final: Path, outliers: str) -> None:
    """AUROC of the energy score: test pictures against pictures of another kind."""
    strange = find_outliers(outliers, source.spec)
    inside = metrics.energy(runtime.run(final, pixels, source.parts["test"]))
    outside = metrics.energy(runtime.run(final, strange, np.arange(len(strange))))
    refused = metrics.share(int((outside < (judgement.threshold or 0)).sum()), len(strange))
    found = round(metrics.auroc(inside, outside), 4)
    judgement.figures["in_distribution"] |= {"auroc": found, "strangers_refused": asdict(refused)}
    judgement.rows.append(("told from pictures of another kind", f"AUROC {found:.4f}; {percent(refused)} of them refused"))


def judge_speed(judgement: Judgement, final: Path, side: int) -> None:
    """Which operators run, how long opening takes, and one picture."""
    operators = dict(runtime.executed_operators(final).most_common())
    timed = latency(final, side)
    judgement.figures |= {"operators": operators, "latency": timed}
    judgement.rows += [
        ("model.onnx", f"{final.stat().st_size / 1e6:.2f} MB, {side} px"),
        ("session.run, one picture, one thread",
         f"{timed['run_p50_ms']:.2f} ms (median of {timed['n']}, {timed['processor']})"),
        ("session open", f"{timed['session_open_ms']:.0f} ms"),
        ("operators that run", ", ".join(f"{n} {operator}" for operator, n in operators.items()))]


def latency(path: Path, side: int, *, threads: int = 1, n: int = 100) -> dict[str, Any]:
    """Milliseconds: opening the session once, and the median of `n` runs on one picture."""
    begun = time.perf_counter()
    session = runtime.open_session(path, threads)
    open_ms = 1000 * (time.perf_counter() - begun)
    feed, times = {session.get_inputs()[0].name: np.zeros((1, side, side, 3), np.uint8)}, []
    for _ in range(n + 10):
        begun = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - begun))
    return {"session_open_ms": round(open_ms, 1), "run_p50_ms": round(statistics.median(times[10:]), 3), "n": n,
            "batch": 1, "threads": threads, "processor": _processor()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
