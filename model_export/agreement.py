"""What int8 is worth where pictures have no labels: does it name what the trained network names?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export import metrics, runtime
from model_export.judge import IN_DISTRIBUTION_SHARE, Judgement
from model_export.metrics import Logits, Share
from model_export.parity import measure
from model_export.quantize import Unproven
from model_export.report import percent
from model_export.source import Source
from model_export.train import predict

LEAST_AGREEMENT = 0.99  # of top-1
MOST_LOSS_POINTS = 0.5  # where int8 is insisted on
LEAST_PICTURES = 32  # fewer cannot vouch for an int8 graph
MOST_COMPARED = 512  # by torch, which is slow
LEAST_FOR_THRESHOLD = 50  # pictures, of which one in a hundred is to lie below


@dataclass(frozen=True)
class Agreement:
    """Share of pictures with equal top-1, and the loss of accuracy to expect, in points of 100, if the first model's
    confidences are right: the mean of what it gives its own label more than the other model's label."""

    top1: Share
    loss_points: float


def agreement(expected: Logits, got: Logits) -> Agreement:
    """Compare logits (N, labels) of the same pictures."""
    confidences, own, other = metrics.softmax(expected), expected.argmax(1), got.argmax(1)
    rows = np.arange(len(expected))
    return Agreement(metrics.share(int((own == other).sum()), len(own)),
                     100 * float((confidences[rows, own] - confidences[rows, other]).mean()))


def check_agreement(found: Agreement, *, insisted: bool) -> None:
    """Raises Unproven unless int8 changes next to nothing: 99 % of all top-1 are equal, on 32 pictures or more.

    Who insists on int8 accepts other labels where the network itself wavers: then at most 0.5 points of accuracy may be
    expected to be lost.
    """
    if found.top1.n < LEAST_PICTURES:
        raise Unproven(f"int8 is not taken: {found.top1.n} pictures cannot vouch for it, {LEAST_PICTURES} are needed. Give more, "
                       "or ship fp32: --precision fp32.")
    fits = found.loss_points <= MOST_LOSS_POINTS
    if (insisted and fits) or found.top1.value >= LEAST_AGREEMENT:
        return
    remedy = ("--precision int8 takes it, since it wavers only where the network does" if fits else
              "Give more pictures like those that it was trained on, or labelled ones, so that accuracy decides; or another "
              "--calibration-method; or ship fp32: --precision fp32")
    raise Unproven(f"int8 is not taken: it names what the network names on {percent(found.top1)} of the pictures, expected "
                   f"{100 * LEAST_AGREEMENT:.0f} %; {found.loss_points:.2f} points of accuracy would be lost if the network's "
                   f"confidences are right, at most {MOST_LOSS_POINTS} where int8 is insisted on. {remedy}.")


def judge_agreement(source: Source, pixels: NDArray[np.uint8], final: Path, *, int8: bool, insisted: bool) -> Judgement:
    """Compare torch with the final graph on pictures without labels; the threshold comes from "val".

    Raises Unproven when `final` is int8 and answers otherwise.
    """
    compared = np.sort(np.random.default_rng(0).permutation(source.parts["test"])[:MOST_COMPARED])
    expected, got = predict(source.model, pixels, compared, source.spec), runtime.run(final, pixels, compared)
    found, kind = agreement(expected, got), "int8" if int8 else "fp32"
    judgement = Judgement(figures={"top1_agreement": {kind: asdict(found)}}, agreement={kind: measure(expected, got)})
    judgement.rows = [("accuracy", "not known: the pictures have no labels"),
                      (f"top-1 equal, torch and {kind}", percent(found.top1)),
                      (f"points of accuracy lost by {kind}, if torch's confidences are right", f"{found.loss_points:.2f}")]
    if int8:
        check_agreement(found, insisted=insisted)
    val = source.parts["val"]
    if len(val) >= LEAST_FOR_THRESHOLD:
        scores = metrics.energy(runtime.run(final, pixels, val))
        judgement.threshold = round(float(np.quantile(scores, 1 - IN_DISTRIBUTION_SHARE)), 4)
        judgement.figures["in_distribution"] = {"fitted_on": len(val)}
    return judgement
