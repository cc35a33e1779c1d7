"""Pictures for reports, as SVG text: what people would rather look at than read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from model_export.metrics import Energies, Reliability, share

INK, ACCENT, PALE = "#1f2937", "#2563eb", "#bfdbfe"
plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
                 "svg.hashsalt": "shutterless", "text.color": INK, "axes.labelcolor": INK, "text.parse_math": False}


def confusion_plot(counts: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Counts (labels, labels), rows true: the diagonal is right. Colour shows the share of the row that went wrong."""
    n = len(labels)
    side = min(max(4.0, 0.55 * n + 2), 14)
    figure, axes = plt.subplots(figsize=(side, side * 0.9))
    rows = np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = np.where(np.eye(n, dtype=bool), 0, counts / rows)
    darkest = max(float(wrong.max()), 0.02)
    axes.imshow(wrong, cmap="Reds", vmin=0, vmax=darkest)
    if n <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            weight = "bold" if row == column else "normal"
            ink = "white" if wrong[row, column] > darkest / 2 else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, fontweight=weight, color=ink)
        axes.set_xticks(range(n), labels, rotation=60, ha="right")
        axes.set_yticks(range(n), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _svg(figure)


def reliability_plot(calibrated: Reliability, raw: Reliability) -> str:
    """Accuracy over confidence: on the diagonal, 90 % sure means right 9 times of 10."""
    figure, axes = plt.subplots(figsize=(4.2, 4))
    axes.plot([0, 1], [0, 1], color="#9ca3af", linewidth=1, linestyle="--")
    axes.plot(raw.confidence, raw.accuracy, "o-", color=PALE, label=f"before, error {raw.error:.2%}")
    sizes = [20 + 180 * n / max(calibrated.count) for n in calibrated.count]
    axes.plot(calibrated.confidence, calibrated.accuracy, color=ACCENT, linewidth=1)
    axes.scatter(calibrated.confidence, calibrated.accuracy, s=sizes, color=ACCENT,
                 label=f"temperature-scaled, error {calibrated.error:.2%}")
    axes.set(xlabel="confidence", ylabel="share that was right", xlim=(0, 1.03), ylim=(0, 1.03))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


def per_class_plot(counts: NDArray[np.int64], labels: Sequence[str]) -> str:
    """Share of each class that was found, with its 95 % interval."""
    shares = {i: share(int(counts[i, i]), int(counts[i].sum())) for i in range(len(labels)) if counts[i].any()}
    order = sorted(shares, key=lambda i: shares[i].value)
    figure, axes = plt.subplots(figsize=(6, 0.28 * len(order) + 1))
    values = [100 * shares[i].value for i in order]
    errors = [[100 * (shares[i].value - shares[i].low) for i in order], [100 * (shares[i].high - shares[i].value) for i in order]]
    axes.errorbar(values, range(len(order)), xerr=errors, fmt="o", color=ACCENT, ecolor=PALE, elinewidth=4)
    axes.set_yticks(range(len(order)), [labels[i] for i in order])
    axes.set_xlabel("found, % (95 % interval)")
    axes.grid(axis="x", color="#e5e7eb")
    return _svg(figure)


def energy_plot(inside: Energies, outside: Energies, threshold: float) -> str:
    """How often each energy occurs among the model's own pictures and among others; left of the line is refused."""
    figure, axes = plt.subplots(figsize=(6, 3))
    everything = np.concatenate([inside, outside])
    bins = np.linspace(float(everything.min()), float(everything.max()), 50).tolist()
    for energies, colour, label in ((outside, "#f59e0b", "of another kind"), (inside, ACCENT, "test pictures")):
        weights = np.full(len(energies), 100 / len(energies))
        axes.hist(energies, bins, weights=weights, color=colour, alpha=0.6, label=f"{label}, n = {len(energies)}")
    axes.axvline(threshold, color=INK, linewidth=1, linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(xlabel="energy, nats", ylabel="% of the pictures")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return _svg(figure)


def history_plot(history: Sequence[dict[str, float]]) -> str:
    """Loss on training pictures and accuracy on validation pictures, epoch by epoch."""
    epochs = range(1, len(history) + 1)
    figure, axes = plt.subplots(figsize=(6, 3))
    axes.plot(epochs, [h["loss"] for h in history], color="#9ca3af")
    axes.set(xlabel="epoch", ylabel="loss (grey)")
    right = axes.twinx()
    right.plot(epochs, [100 * h["val_accuracy"] for h in history], "o-", color=ACCENT)
    right.set_ylabel("validation accuracy, % (blue)")
    right.spines["right"].set_visible(True)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():  # a letter that matplotlib's font lacks is drawn by the browser's
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg"):]
