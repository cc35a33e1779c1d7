"""Figures about a classifier, each with the interval it stands on. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964  # two-sided 95 % of the normal distribution
Logits = NDArray[np.floating]
Targets = NDArray[np.int64]
Energies = NDArray[np.floating]


@dataclass(frozen=True)
class Share:
    """A share in 0..1 of n cases, with its 95 % interval (Wilson 1927)."""

    value: float
    n: int
    low: float
    high: float


def share(hits: int, n: int) -> Share:
    """Wilson's score interval: honest near 0 and 1, where the normal one is not."""
    p, z2 = hits / n, Z_95**2
    centre, half = p + z2 / (2 * n), Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return Share(p, n, 0.0 if hits == 0 else low, 1.0 if hits == n else high)  # exactly, which rounding would miss


def accuracy(logits: Logits, targets: Targets) -> Share:
    """Top-1."""
    return share(int((logits.argmax(1) == targets).sum()), len(targets))


@dataclass(frozen=True)
class Drop:
    """How much worse B is than A on the same pictures, in points of 100, with its paired 95 % interval."""

    points: float
    low: float
    high: float
    n: int


def paired_drop(a: Logits, b: Logits, targets: Targets) -> Drop:
    """Accuracy of A minus that of B. Wald interval on the pairs that differ, with Agresti and Min's (2005) +0.5 each."""
    right_a, right_b = a.argmax(1) == targets, b.argmax(1) == targets
    n, lost, won = len(targets), int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    lost_, won_, n_ = lost + 0.5, won + 0.5, n + 2
    half = Z_95 * math.sqrt(lost_ + won_ - (lost_ - won_) ** 2 / n_) / n_
    centre = (lost_ - won_) / n_
    return Drop(100 * (lost - won) / n, 100 * (centre - half), 100 * (centre + half), n)


def confusion(logits: Logits, targets: Targets, n_labels: int) -> NDArray[np.int64]:
    """Counts (n_labels, n_labels): rows are true labels, columns predicted ones."""
    counts = np.zeros((n_labels, n_labels), np.int64)
    np.add.at(counts, (targets, logits.argmax(1)), 1)
    return counts


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """Rows sum to 1; computed in float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def energy(logits: Logits) -> NDArray[np.float64]:
    """log sum exp of the logits, in nats: high for pictures like the training ones (Liu et al. 2020)."""
    logits = logits.astype(np.float64)
    top = logits.max(1)
    return top + np.log(np.exp(logits - top[:, None]).sum(1))


def negative_log_likelihood(logits: Logits, targets: Targets, temperature: float) -> float:
    """Mean over the pictures, in nats."""
    scaled = logits.astype(np.float64) / temperature
    return float(np.mean(energy(scaled) - scaled[np.arange(len(targets)), targets]))


def fit_temperature(logits: Logits, targets: Targets) -> float:
    """The divisor of the logits with the least negative log likelihood (Guo et al. 2017): golden section on its log."""
    low, high, ratio = math.log(0.05), math.log(20.0), (math.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, targets, math.exp(left)) < negative_log_likelihood(
                logits, targets, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


@dataclass(frozen=True)
class Reliability:
    """Bins of equal width over confidence: mean confidence, accuracy and count of each; `error` is their weighted gap."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]
    error: float


def reliability(logits: Logits, targets: Targets, temperature: float, bins: int = 15) -> Reliability:
    """Expected calibration error with 15 bins of equal width, as Guo et al. (2017) report it; empty bins are left out."""
    probabilities = softmax(logits, temperature)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    used = [index == b for b in range(bins) if (index == b).any()]
    rows = [(float(confidence[m].mean()), float(right[m].mean()), int(m.sum())) for m in used]
    error = sum(abs(c - a) * n for c, a, n in rows) / len(targets)
    confidences, accuracies, counts = zip(*rows, strict=True)
    return Reliability(confidences, accuracies, counts, error)


def auroc(inside: Energies, outside: Energies) -> float:
    """Chance that a score of `inside` is above one of `outside`; ties count half (Mann and Whitney 1947)."""
    scores = np.concatenate([inside, outside])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    rank_sum = ranks[: len(inside)].sum()
    return float((rank_sum - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def auroc_interval(area: float, n_inside: int, n_outside: int) -> tuple[float, float]:
    """95 % interval of an AUROC (Hanley and McNeil 1982)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n_inside - 1) * (one - area**2) + (n_outside - 1) * (two - area**2)
    half = Z_95 * math.sqrt(max(spread, 0.0) / (n_inside * n_outside))
    return max(0.0, area - half), min(1.0, area + half)
