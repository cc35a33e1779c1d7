from collections import Counter

import numpy as np
import pytest

from model_export import report
from model_export.metrics import share
from model_export.report import Section


@pytest.mark.parametrize(("distance", "verdict"), [(4.0, "met"), (0.5, "missed")])
def test_telling_strangers_apart_is_held_against_its_goal(distance, verdict):
    random = np.random.default_rng(0)
    inside, outside = random.normal(distance, 1, 500), random.normal(0, 1, 300)
    section = report.strangers_section(inside, outside, 1.5, share(495, 500), share(280, 300))
    assert section.text.endswith(f"the goal is at least 0.95: {verdict}.")
    assert "of another kind, n = 300" in section.plot
    assert "threshold 1.50" in section.plot


def test_operators_are_told_by_what_they_compute_in():
    found = Counter({"QLinearConv": 9, "QGemm": 1, "Conv": 2, "QuantizeLinear": 1, "MatMulInteger": 3})
    _, *rows = report.operators_section(found).table
    assert rows == [("int8", "9 QLinearConv, 3 MatMulInteger, 1 QGemm"), ("between int8 and fp32", "1 QuantizeLinear"),
                    ("fp32, or shapes", "2 Conv")]


def test_plots_are_in_the_page_and_beside_the_markdown(tmp_path):
    report.write(tmp_path, "A & B", [Section("What is < 5?", "Some are.", [("n",), ("4",)], "<svg>four</svg>"), Section("End")])
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<h1>A &amp; B</h1>" in page
    assert "<svg>four</svg>" in page
    assert "![What is < 5?](plots/what-is-5.svg)" in card
    assert (tmp_path / "plots" / "what-is-5.svg").read_text() == "<svg>four</svg>"
    assert card.count("![") == 1


@pytest.mark.parametrize("label", ["from $1 to $2", "$\\frac$", "\u5c4b\u6839"])
def test_a_label_is_drawn_as_it_is_written(label):
    from model_export import plots

    counts = np.array([[3, 1], [0, 4]])
    for plot in (plots.confusion_plot(counts, [label, "other"]), plots.per_class_plot(counts, [label, "other"])):
        assert f">{label}</text>" in plot


def test_a_label_with_a_bar_or_a_line_in_it_stays_in_its_cell(tmp_path):
    report.write(tmp_path, "card", [Section("Table", table=[("class", "found"), ("roof|tile\nred", "4")])])
    assert "| roof\\|tile red | 4 |\n" in (tmp_path / "report.md").read_text()
