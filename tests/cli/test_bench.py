import json
import re
import shutil

import pytest

QUICK = ("--batches", 1, 2, "--threads", 1, "--runs", 5)


@pytest.fixture(scope="module")
def report(fast_bundle, tmp_path_factory):
    """Of one measurement, and its plot."""
    from benchmarks.model import Plan, draw, measure, ratios
    from shutterless.bundles import read_bundle

    report = measure(read_bundle(fast_bundle), Plan(sides=(32, 48), batches=(1, 2), threads=(1,), runs=5, openings=2))
    report["ratios"] = ratios(report)
    plot = tmp_path_factory.mktemp("plots") / "var" / "plot.svg"
    draw(report, plot)
    return report, plot.read_text()


def test_every_size_batch_and_number_of_threads_is_a_row_with_plain_onnxruntime_beside_the_bundle(report):
    rows = report[0]["run"]
    assert [(row["side"], row["batch"], row["threads"]) for row in rows] == [(32, 1, 1), (32, 2, 1), (48, 1, 1), (48, 2, 1)]
    assert [sorted(row["p50_ms"]) for row in rows] == [["onnxruntime", "this bundle"]] * 2 + [["onnxruntime"]] * 2
    assert all(taken > 0 for row in rows for taken in row["p50_ms"].values())


def test_opening_is_measured_plain_and_both_ways_of_the_doors(report):
    ways = report[0]["open"]
    assert [way["way"].split(",")[0] for way in ways] == ['InferenceSession("model.onnx")', "model.onnx", "optimised graph"]
    assert all(way["cpu_ms"] > 0 and way["wall_ms"] > 0 and way["n"] == 2 for way in ways)
    assert report[0]["ratios"]["open"] == pytest.approx(ways[0]["cpu_ms"] / ways[2]["cpu_ms"], abs=0.01)


def test_what_could_not_be_measured_is_told_with_the_reason(report):
    assert set(report[0]["missing"]) == {"torch eager, fp32"}


def test_the_plot_shows_what_was_measured(report):
    assert re.search("48 px, batch 2, 1 thread(?!s)", report[1])  # as text or, beside its outlines, as a comment
    assert "tiles/1, fp32: " in report[1]


def test_the_tables_are_for_people_and_the_plot_goes_to_var(shutterless, fast_bundle, tmp_path):
    done = shutterless("bench", "model", fast_bundle, *QUICK)
    text = done.stdout.decode()
    assert done.returncode == 0
    assert "session open, median" in text
    assert "this bundle, ms" in text
    assert "not measured: torch eager, fp32 (" in text
    assert (tmp_path / "var/bench/model-tiles-1.svg").stat().st_size > 0


def test_json_is_one_line_and_the_plot_goes_where_it_was_told(shutterless, fast_bundle, tmp_path):
    done = shutterless("bench", "model", fast_bundle, *QUICK, "--json", "--out", tmp_path / "plot.png")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["model"]["name"] == "tiles"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("typed", [("--sizes", 0), ("--batches", 1, -1), ("--runs", 0), ("--threads", 5000)])
def test_a_number_that_makes_no_sense_is_refused(shutterless, fast_bundle, typed):
    done = shutterless("bench", "model", fast_bundle, *typed)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(f"shutterless: {typed[0]}: expected a number from 1 to".encode())


def test_a_plot_of_an_unknown_kind_is_refused_before_anything_is_measured(shutterless, fast_bundle):
    assert b"expected a file .png or .svg" in shutterless("bench", "model", fast_bundle, "--out", "plot.gif").stderr


def test_a_damaged_bundle_is_not_measured(shutterless, fast_bundle, tmp_path):
    folder = shutil.copytree(fast_bundle, tmp_path / "tiles" / "1")
    (folder / "model.onnx.data").write_bytes(b"")
    assert shutterless("bench", "model", folder).stderr.startswith(b"shutterless: model.onnx.data: expected")


@pytest.mark.needs("torch")
def test_torch_is_measured_beside_it_where_the_architecture_is_known(fast_bundle):
    from dataclasses import replace

    from benchmarks.model import Plan, measure
    from shutterless.bundles import read_bundle

    bundle = read_bundle(fast_bundle)
    manifest = replace(bundle.manifest, source={"architecture": "resnet18"}, precision="int8")
    report = measure(replace(bundle, manifest=manifest), Plan(sides=(32,), batches=(1,), threads=(1,), runs=5, openings=1))
    assert sorted(report["run"][0]["p50_ms"]) == ["onnxruntime", "onnxruntime, fp32", "this bundle", "torch eager, fp32"]
    assert report["missing"] == {}


@pytest.mark.needs("torch")
def test_a_graph_as_export_writes_it_is_measured_at_other_sizes_too(tmp_path):
    import numpy as np
    import onnxruntime
    import torch

    from benchmarks.model import _resize
    from model_export.graph import Serving, write_graph
    from shutterless.manifests import InputSpec

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    write_graph(net, InputSpec(size=32), tmp_path / "own.onnx")
    assert _resize(tmp_path / "own.onnx", 48, tmp_path / "other.onnx") == ""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(tmp_path / "other.onnx", providers=["CPUExecutionProvider"])
    got = session.run(None, {"pictures": pixels})[0]
    with torch.inference_mode():
        expected = Serving(net, InputSpec(size=48)).eval()(torch.from_numpy(pixels)).numpy()
    assert got == pytest.approx(expected, abs=1e-4)
