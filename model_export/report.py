"""Step 4: the report card, one HTML page with its plots inside and the same figures as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from model_export import metrics, plots
from model_export.metrics import Logits, Share, Targets

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
    return f"{figure.value:.2%} ({figure.low:.2%} to {figure.high:.2%}, n = {figure.n})".replace("%", " %")


def accuracy_sections(logits: Logits, targets: Targets, labels: Sequence[str], temperature: float) -> list[Section]:
    """Per class, confusion and calibration of one model on pictures that it never saw."""
    counts = metrics.confusion(logits, targets, len(labels))
    found = [metrics.share(int(counts[i, i]), max(int(counts[i].sum()), 1)) for i in range(len(labels))]
    named = np.maximum(counts.sum(0), 1)
    rows: list[Sequence[str]] = [("class", "found (recall)", "right when named (precision)")]
    rows += [(label, percent(found[i]), f"{counts[i, i] / named[i]:.2%}".replace("%", " %")) for i, label in enumerate(labels)
             if counts[i].any()]
    calibrated = metrics.reliability(logits, targets, temperature)
    raw = metrics.reliability(logits, targets, 1.0)
    return [
        Section("Per class", table=rows, plot=plots.per_class_plot(counts, labels)),
        Section("What is taken for what", "Rows are true labels, columns predicted ones.",
                plot=plots.confusion_plot(counts, labels)),
        Section("Can its confidence be believed?", f"Expected calibration error {calibrated.error:.2%} on "
                f"{len(targets)} pictures (15 bins; {raw.error:.2%} before temperature scaling; temperature "
                f"{temperature:.3f}).", plot=plots.reliability_plot(calibrated, raw)),
    ]


def write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    """Write `report.html` and `report.md` into `folder`."""
    body = "\n".join(_html(section) for section in sections)
    (folder / "report.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1>\n{body}\n</html>\n")
    (folder / "report.md").write_text(f"# {title}\n\n" + "\n\n".join(_markdown(s) for s in sections) + "\n")


def _html(section: Section) -> str:
    head, *rows = section.table or [()]
    table = "".join(["<table><tr>", *(f"<th>{escape(c)}</th>" for c in head), "</tr>",
                     *("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows), "</table>"])
    return "\n".join(part for part in (f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>" * bool(section.text),
                                       table * bool(section.table), section.plot) if part)


def _markdown(section: Section) -> str:
    head, *rows = section.table or [()]
    table = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    return "\n\n".join(part for part in (f"## {section.title}", section.text, table * bool(section.table)) if part)
