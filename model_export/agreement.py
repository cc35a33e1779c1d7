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
LEAST_PICTURES = 32  # fewer cannot vouch for an int8 graph
SURE = 0.5  # confidence from which on the network prefers its label to all others together
MOST_COMPARED = 512  # by torch, which is slow
LEAST_FOR_THRESHOLD = 50  # pictures, of which one in a hundred is to lie below


@dataclass(frozen=True)
class Agreement:
    """Share of pictures with equal top-1: of all, and of those of which the first model is sure (None where there are none)."""

    all: Share
    sure: Share | None


def agreement(expected: Logits, got: Logits) -> Agreement:
    """Compare logits (N, labels) of the same pictures."""
    same = expected.argmax(1) == got.argmax(1)
    sure = metrics.softmax(expected).max(1) >= SURE
    return Agreement(metrics.share(int(same.sum()), len(same)),
                     metrics.share(int(same[sure].sum()), int(sure.sum())) if sure.any() else None)


def check_agreement(found: Agreement, *, insisted: bool) -> None:
    """Raises Unproven unless int8 changes next to nothing: 99 % of all top-1 are equal, on 32 pictures or more.

    Who insists on int8 accepts other labels where the network itself is not sure: then 99 % of the pictures with a
    confidence of 50 % or more count, if there are 32 of them.
    """
    counted, of = found.all, "of the pictures"
    if insisted and found.sure and found.sure.n >= LEAST_PICTURES:
        counted, of = found.sure, f"of the pictures that the network is sure of (confidence {SURE:.0%} or more)"
    if counted.n < LEAST_PICTURES:
        raise Unproven(f"int8 is not taken: {counted.n} pictures cannot vouch for it, {LEAST_PICTURES} are needed. Give more, or "
                       "ship fp32: --precision fp32.")
    if counted.value < LEAST_AGREEMENT:
        raise Unproven(f"int8 is not taken: it names what the network names on {percent(counted)} {of}, and "
                       f"{LEAST_AGREEMENT:.0%} are needed. Give more pictures like those that it was trained on, or labelled "
                       "ones, so that accuracy decides; or another --calibration-method; or ship fp32: --precision fp32.")


def judge_agreement(source: Source, pixels: NDArray[np.uint8], final: Path, *, int8: bool, insisted: bool) -> Judgement:
    """Compare torch with the final graph on pictures without labels; the threshold comes from "val".

    Raises Unproven when `final` is int8 and answers otherwise.
    """
    compared = np.sort(np.random.default_rng(0).permutation(source.parts["test"])[:MOST_COMPARED])
    expected, got = predict(source.model, pixels, compared, source.spec), runtime.run(final, pixels, compared)
    found, kind = agreement(expected, got), "int8" if int8 else "fp32"
    judgement = Judgement(figures={"top1_agreement": {kind: asdict(found)}}, agreement={kind: measure(expected, got)})
    judgement.rows = [("accuracy", "not known: the pictures have no labels"),
                      (f"top-1 equal, torch and {kind}", percent(found.all))]
    if found.sure:
        judgement.rows.append((f"the same, where torch is sure (confidence {SURE:.0%} or more)", percent(found.sure)))
    if int8:
        check_agreement(found, insisted=insisted)
    val = source.parts["val"]
    if len(val) >= LEAST_FOR_THRESHOLD:
        scores = metrics.energy(runtime.run(final, pixels, val))
        judgement.threshold = round(float(np.quantile(scores, 1 - IN_DISTRIBUTION_SHARE)), 4)
        judgement.figures["in_distribution"] = {"fitted_on": len(val)}
    return judgement
