"""Step 5: the report card, one HTML page with its plots inside, and the same as Markdown with its plots beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model_export import metrics, plots
from model_export.metrics import Energies, Logits, Share, Targets
from model_export.unfinished import replaced_whole

if TYPE_CHECKING:
    from model_export.parity import Parity
    from model_export.runtime import Graph

AUROC_GOAL = 0.95

STYLE = """body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:52rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0}td,th{border-bottom:1px solid #e5e7eb;padding:.3rem .9rem .3rem 0;text-align:left}
svg{max-width:100%;height:auto}h2{margin-top:2.2rem}"""


@dataclass
class Section:
    """A heading with sentences, a table (first row is its head) and a plot (SVG), each of which may be absent."""

    title: str
    text: str = ""
    table: list[Sequence[str]] = field(default_factory=list)
    plot: str = ""


def percent(figure: Share) -> str:
    """`98.77 % (98.06 to 99.22, n = 1458)`."""
    return f"{_percent(figure.value)} ({_percent(figure.low)} to {_percent(figure.high)}, n = {figure.n})"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def accuracy_sections(logits: Logits, targets: Targets, labels: Sequence[str], temperature: float) -> list[Section]:
    """Per class, confusion and calibration of one model on pictures that it never saw."""
    counts = metrics.confusion(logits, targets, len(labels))
    found = [metrics.share(int(counts[i, i]), max(int(counts[i].sum()), 1)) for i in range(len(labels))]
    named = np.maximum(counts.sum(0), 1)
    rows: list[Sequence[str]] = [("class", "found (recall)", "right when named (precision)")]
    rows += [(label, percent(found[i]), _percent(counts[i, i] / named[i])) for i, label in enumerate(labels)
             if counts[i].any()]
    calibrated = metrics.reliability(logits, targets, temperature)
    raw = metrics.reliability(logits, targets, 1.0)
    return [
        Section("Per class", table=rows, plot=plots.per_class_plot(counts, labels)),
        Section("What is taken for what", "Rows are true labels, columns predicted ones.",
                plot=plots.confusion_plot(counts, labels)),
        Section("Can its confidence be believed?", f"Expected calibration error {_percent(calibrated.error)} on "
                f"{len(targets)} pictures (15 bins; {_percent(raw.error)} before temperature scaling; temperature "
                f"{temperature:.3f}).", plot=plots.reliability_plot(calibrated, raw)),
    ]


def parity_section(fp32: Parity, served: Mapping[str, Parity], *, real: bool) -> Section:
    """How far each graph is from torch; `real`: on pictures, not on noise."""
    rows: list[Sequence[str]] = [("graph", "pictures", "top-1 equal", "largest difference of a logit", "of a confidence")]
    compared = {"fp32, as exported": fp32, **{f"{kind}, as judged": found for kind, found in served.items()}}
    rows += [(name, str(p.n), _percent(p.top1_agreement), f"{p.logits_difference:.1e}", f"{p.confidence_difference:.1e}")
             for name, p in compared.items()]
    return Section("Does it answer like torch?", "Pictures that were kept from training, where it is known which." if real else
                   "Asked about noise: no pictures were given.", table=rows)


def strangers_section(inside: Energies, outside: Energies, threshold: float, kept: Share, refused: Share) -> Section:
    """Whether `in_distribution` tells the model's pictures from others, by their energies in nats."""
    found = metrics.auroc(inside, outside)
    low, high = metrics.auroc_interval(found, len(inside), len(outside))
    met = "met" if found >= AUROC_GOAL else "missed"
    return Section("Does it know what it does not know?",
                   f"in_distribution compares the energy of the logits with {threshold:.2f} nats, above which 99 % of the "
                   f"pictures lie that the threshold was chosen on. Of the test pictures {percent(kept)} pass, of pictures "
                   f"of another kind {percent(refused)} are refused. AUROC {found:.3f} (95 % interval "
                   f"{low:.3f} to {high:.3f}); the goal is at least {AUROC_GOAL}: {met}.",
                   plot=plots.energy_plot(inside, outside, threshold))


def cost_section(files: Sequence[Path], serving: Graph, timed: Mapping[str, Any], compared: int) -> Section:
    """Bytes, opening and running of the graph that serves."""
    opened = {"plain InferenceSession(\"model.onnx\")": "plain", "model.onnx, as the doors open it": "portable"}
    rows = [("", "median"), *((f"session open, {what}", f"{timed[f'session_open_{key}_ms']:.1f} ms")
                              for what, key in opened.items())]
    if serving.optimised:
        rows.append(("session open, optimised graph", f"{timed['session_open_ms']:.1f} ms"))
    rows.append((f"session.run, one picture, {timed['threads']} thread", f"{timed['run_p50_ms']:.2f} ms (n = {timed['n']})"))
    rows += [(path.name, f"{path.stat().st_size / 1e6:.2f} MB") for path in files]
    served = (f"{serving.path.name}, which answers bit for bit like model.onnx on {compared} pictures" if serving.optimised
              else "model.onnx, since none was optimised beforehand")
    return Section("What does it cost?", f"Measured on {timed['processor']}. The graph that serves there is {served}.",
                   table=list(rows))


def operators_section(operators: Counter[str]) -> Section:
    """What really runs in int8."""
    kinds: dict[str, list[str]] = {"int8": [], "between int8 and fp32": [], "fp32, or shapes": []}
    for operator, n in operators.most_common():
        kinds[list(kinds)[_kind(operator)]].append(f"{n} {operator}")
    return Section("What runs in int8?", "Operators of the graph that serves.",
                   table=[("in", "operators"), *((kind, ", ".join(found)) for kind, found in kinds.items() if found)])


def _kind(operator: str) -> int:
    if operator in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
        return 1
    return 0 if operator.startswith(("QLinear", "QGemm", "NhwcMaxPool")) or operator.endswith("Integer") else 2


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `report.html`, and `report.md` with its plots in `plots/`, into `folder`."""
    body = "\n".join(_html(section) for section in sections)
    with replaced_whole(folder / "report.html") as unfinished:
        unfinished.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
            f"<h1>{escape(title)}</h1>\n{body}\n</html>\n")
    for section in sections:
        if section.plot:
            (folder / "plots").mkdir(exist_ok=True)
            (folder / _plot_file(section)).write_text(section.plot)
    with replaced_whole(folder / "report.md") as unfinished:
        unfinished.write_text(f"# {title}\n\n" + "\n\n".join(_markdown(s) for s in sections) + "\n")


def _plot_file(section: Section) -> str:
    return f"plots/{re.sub('[^a-z0-9]+', '-', section.title.lower()).strip('-')}.svg"


def _html(section: Section) -> str:
    head, *rows = section.table or [()]
    table = "".join(["<table><tr>", *(f"<th>{escape(c)}</th>" for c in head), "</tr>",
                     *("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows), "</table>"])
    return "\n".join(part for part in (f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>" * bool(section.text),
                                       table * bool(section.table), section.plot) if part)


def _cell(text: str) -> str:
    """A label or a file's name may hold what would end the cell or the row."""
    return " ".join(text.replace("|", "\\|").split("\n"))


def _markdown(section: Section) -> str:
    head, *rows = section.table or [()]
    table = "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in [head, ["---"] * len(head), *rows])
    plot = f"![{section.title}]({_plot_file(section)})"
    return "\n\n".join(part for part in (f"## {section.title}", section.text, table * bool(section.table),
                                         plot * bool(section.plot)) if part)
