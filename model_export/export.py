"""The chain: graph -> parity -> quantize -> optimise -> judge -> report, into a bundle that is whole or not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export import report
from model_export.agreement import MOST_COMPARED, judge_agreement
from model_export.datasets import prepare
from model_export.errors import ExportError
from model_export.graph import opset, write_graph
from model_export.judge import Judgement, judge, judge_outliers, judge_speed
from model_export.optimise import bundle_files, make_serving
from model_export.parity import Parity, check_parity
from model_export.quantize import Unproven, quantize
from model_export.report import Section
from model_export.runtime import Graph
from model_export.source import Source
from model_export.unfinished import written_whole
from model_export.watched import Advance, watched
from shutterless.manifests import Manifest, OptimisedGraph, is_slug, parse_manifest

PARITY_PICTURES, CALIBRATION_PICTURES = 256, 2048
Pixels = NDArray[np.uint8]
Step = Callable[[str], object]


def export(source: Source, *, name: str, version: str, models: Path, prepared: Path, precision: str | None = None,
           method: str = "minmax", outliers: str | None = None, when: str = "always",
           step: Step = lambda sentence: None, advance: Advance = lambda n, total: None) -> Path:
    """Write and verify the bundle `models/<name>/<version>/`; returns its folder.

    precision: "int8" or "fp32"; None takes int8 where there are pictures to calibrate on, and fp32 where these cannot vouch
    for int8. `outliers`: pictures of another kind, to measure how well `in_distribution` tells them apart. `when` a graph
    for machines like this one is added: "always", "shared" (where it needs no weights of its own) or "never". `step` is told
    each step in a sentence, `advance` how many of how many pictures that step was just given.
    Raises ExportError, and leaves nothing behind, when a step refuses the model, that version exists, or another process is
    writing it.
    """
    for kind, value in (("name", name), ("version", version)):
        if not is_slug(value):
            raise ExportError(f"--{kind}: expected letters, digits, dots, dashes and underscores, got {value!r}. Choose another.")
    if precision == "int8" and not source.pictures:
        raise ExportError("int8 needs pictures to calibrate on. Give a folder or zip of them, --calibration FOLDER, or choose "
                          "--precision fp32.")
    if outliers and not source.pictures:
        raise ExportError("--outliers are pictures to tell the model's own from, and none of those were given. Give them, "
                          "--calibration FOLDER, or leave --outliers out.")
    with written_whole(models / name / version) as folder:
        _fill(source, folder, name, version, precision, prepared, method, outliers, when, step, advance)
    return models / name / version


def _fill(source: Source, folder: Path, name: str, version: str, precision: str | None, prepared: Path, method: str,
          outliers: str | None, when: str, step: Step, advance: Advance) -> None:
    """Every step in order; what is only needed on the way is removed at the end."""
    fp32, int8, portable = folder / "fp32.onnx", folder / "int8.onnx", folder / "model.onnx"
    if source.pictures:
        step("pictures: preparing them")
    pixels = source_pixels(source, prepared, advance)
    step("graph: writing ONNX")
    write_graph(source.model, source.spec, fp32)
    few = pixels[sample(source, "test", PARITY_PICTURES)]
    asked = watched(few, 2 * len(few), advance)
    step("parity: asking torch and ONNX the same")
    parity = check_parity(source.model, source.spec, fp32, asked)
    precision, judgement = _choose(source, pixels, fp32, int8, precision, method, step, advance)
    step("optimise: for machines like this one")
    serving, optimised = make_serving(int8 if precision == "int8" else fp32, portable, when, asked)
    if source.pictures and outliers:
        step("report: asking about pictures of another kind")
        judge_outliers(judgement, source, pixels, serving, outliers, advance)
    step("report: timing")
    judge_speed(judgement, portable, serving, source.spec.side, len(asked))
    for scratch in (fp32, int8):
        scratch.unlink(missing_ok=True)
    write_manifest(source, folder, name, version, precision, parity, judgement, optimised)
    write_card(source, folder, f"{name} {version}: report card", parity, judgement)


def _choose(source: Source, pixels: Pixels, fp32: Path, int8: Path, precision: str | None, method: str, step: Step,
            advance: Advance) -> tuple[str, Judgement]:
    """The precision that is to serve, and what it is worth; writes `int8` where that is tried."""
    if source.pictures is None:
        step("no pictures were given: fp32 only, and its accuracy is not known")
        return "fp32", Judgement()
    refusal = ""
    if precision != "fp32":
        step("quantize: calibrating int8")
        quantize(fp32, int8, pixels[sample(source, "train", CALIBRATION_PICTURES)], method=method, advance=advance)
        step("report: judging int8")
        try:
            return "int8", judge_pictures(source, pixels, fp32, int8, insisted=precision == "int8", advance=advance)
        except Unproven as doubt:
            if precision == "int8":
                raise
            refusal = str(doubt)
            step(f"this bundle is fp32, since {refusal}")
    step("report: judging fp32")
    judgement = judge_pictures(source, pixels, fp32, advance=advance)
    if refusal:
        judgement.rows.insert(0, ("why it is fp32", refusal))
    return "fp32", judgement


def judge_pictures(source: Source, pixels: Pixels, fp32: Path, int8: Path | None = None, *, insisted: bool = False,
                   advance: Advance = lambda n, total: None) -> Judgement:
    """By accuracy where the source's pictures have labels, else by agreement with the network."""
    n = {part: len(indices) for part, indices in source.parts.items()}
    if source.labelled:  # torch, fp32 and int8 on test, both graphs on val and test, the last one on val
        total = 2 * n["test"] + n["val"] + (3 * n["test"] + 2 * n["val"] if int8 else 0)
        graphs = {"fp32": Graph(fp32)} | ({"int8": Graph(int8)} if int8 else {})
        return judge(source, watched(pixels, total, advance), graphs)
    total = 2 * min(n["test"], MOST_COMPARED) + n["val"]
    return judge_agreement(source, watched(pixels, total, advance), int8 or fp32, int8=int8 is not None, insisted=insisted)


def source_pixels(source: Source, prepared: Path, advance: Advance = lambda n, total: None) -> Pixels:
    """The source's pictures as uint8 (N, side, side, 3), or 32 of noise where it has none."""
    if source.pictures:
        total = len(source.pictures.names)
        return prepare(source.pictures, source.spec, prepared, lambda n: advance(n, total))
    side = source.spec.side
    return np.random.default_rng(0).integers(0, 256, (32, side, side, 3), dtype=np.uint8)


def sample(source: Source, part: str, n: int) -> NDArray[np.int64]:
    """At most `n` indices of a part, the same ones every time; without pictures, those of the noise."""
    indices = source.parts.get(part, np.arange(32))
    return np.sort(np.random.default_rng(0).permutation(indices)[:n])


def write_manifest(source: Source, folder: Path, name: str, version: str, precision: str, parity: Parity,
                   judgement: Judgement, optimised: tuple[OptimisedGraph, ...]) -> None:
    """Write `manifest.json` beside the graphs, and read it as every door will."""
    text = Manifest(
        name=name, version=version, task="classify", labels=source.labels, input=source.spec,
        opset=opset(folder / "model.onnx"), files=bundle_files(folder), precision=precision,
        temperature=judgement.temperature, ood_threshold=judgement.threshold, optimised=optimised,
        source=source.provenance, report={"parity": asdict(parity), **judgement.figures}).to_json()
    parse_manifest(text)
    (folder / "manifest.json").write_text(text)


def write_card(source: Source, folder: Path, title: str, parity: Parity, judgement: Judgement) -> None:
    """Write the report card into `folder`."""
    head = Section("In short", _standing(source), table=[("", ""), *source.notes, *judgement.rows])
    report.write(folder, title, [head, report.parity_section(parity, judgement.agreement, real=bool(source.pictures)),
                                 *judgement.sections])


def _standing(source: Source) -> str:
    if not source.pictures:
        return "No pictures were given: nothing is known of its accuracy, and it is fp32."
    if not source.labelled:
        return (f"{source.arch}, {len(source.labels)} labels. The pictures given have no labels: what is known is whether it "
                "answers like the trained network, not how often that is right.")
    whose = ("on pictures that were kept from training" if source.unseen else
             "on the pictures given; whether the model was trained on them only its author knows")
    return f"{source.arch}, {len(source.labels)} labels. Figures stand {whose}."
