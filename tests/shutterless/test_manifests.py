import json

import pytest

from shutterless.errors import BadBundle
from shutterless.manifests import InputSpec, OptimisedGraph, parse_manifest

FILE = {"sha256": "0" * 64, "bytes": 1}
GOOD = {"name": "colours", "version": "1", "task": "classify", "files": {"model.onnx": FILE},
        "labels": ["red", "green"],
        "input": {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}, "opset": 17, "precision": "int8",
        "temperature": 1.5, "ood_threshold": -2.5, "source": {"licence": "MIT"}, "report": {"accuracy": 0.99}}


OPTIMISED = {"of": "model.onnx", "graph": "fast.onnx", "weights": ["model.onnx.data"], "ort": "1.31.1", "system": "linux-x86_64",
             "cpu": {"avx512f": True}}
NAMES = ("model.onnx", "model.onnx.data", "fast.onnx", "slow.onnx", "slow.onnx.data", "labels.txt")
FAST = {"files": dict.fromkeys(NAMES, FILE),
        "optimised": [OPTIMISED, OPTIMISED | {"graph": "slow.onnx", "weights": ["slow.onnx.data"], "cpu": {}}]}


def parse(**changed):
    return parse_manifest(json.dumps(GOOD | changed))


def test_what_is_written_is_read_back_equal():
    manifest = parse()
    assert parse_manifest(manifest.to_json()) == manifest
    assert (manifest.labels, manifest.input.side, manifest.temperature) == (("red", "green"), 64, 1.5)


def test_equal_manifests_are_written_as_equal_bytes():
    backwards = dict(reversed(GOOD.items()))
    assert parse_manifest(json.dumps(backwards)).to_json() == parse().to_json()


def test_temperature_threshold_source_and_report_may_be_left_out():
    manifest = parse_manifest(json.dumps({name: GOOD[name] for name in list(GOOD)[:8]}))
    assert (manifest.temperature, manifest.ood_threshold, manifest.source) == (1.0, None, {})


@pytest.mark.parametrize(("field", "value"), [
    ("name", ""), ("name", "../etc"), ("name", "a/b"), ("name", ".."), ("name", 5), ("version", "1/2"),
    ("task", "paint"), ("task", ["classify"]), ("precision", "fp64"), ("opset", 0), ("opset", True), ("opset", "17"),
    ("temperature", 0), ("temperature", -1), ("temperature", "1"), ("ood_threshold", "x"), ("source", []),
    ("report", 1), ("labels", []),
    ("labels", ["red", "red"]), ("labels", ["red", 5]), ("labels", "red"), ("input", []), ("input", {}),
    ("input", {"size": 0}), ("input", {"size": 5000}), ("input", {"size": 64.0}), ("input", {"size": 64, "side": 64}),
    ("input", {"size": 64, "resize": "stretch"}), ("input", {"size": 64, "resize": "shorter side"}),
    ("input", {"size": 64, "resize": "none"}), ("input", {"size": 64, "crop": 0}),
    ("input", {"size": 64, "interpolation": "area"}), ("input", {"size": 64, "mean": [1, 2]}),
    ("input", {"size": 64, "std": [1, 0, 1]}), ("input", {"size": 64, "std": ["a", "b", "c"]}), ("files", []),
    ("files", {}), ("files", {"model.onnx": {}}), ("files", {"model.onnx": FILE | {"sha256": "0"}}),
    ("files", {"model.onnx": FILE | {"sha256": "z" * 64}}), ("files", {"model.onnx": FILE | {"bytes": -1}}),
    ("files", {"model.onnx": FILE, "../../etc/passwd": FILE}), ("files", {"model.onnx": FILE, "/etc/passwd": FILE}),
    ("files", {"model.onnx": FILE, "": FILE})])
def test_a_field_that_does_not_fit_is_named_with_a_remedy(field, value):
    with pytest.raises(BadBundle, match=rf"manifest.json: {field}.*expected .*, got .*\. [A-Z]"):
        parse(**{field: value})


def test_optimised_graphs_are_read_and_written_back():
    manifest = parse(**FAST)
    assert manifest.optimised[0] == OptimisedGraph(**OPTIMISED | {"weights": ("model.onnx.data",)})
    assert parse_manifest(manifest.to_json()) == manifest
    assert parse().optimised == ()


def test_what_is_needed_are_the_files_of_the_graphs_that_are_opened_and_what_belongs_to_none():
    manifest = parse(**FAST)
    assert manifest.needed() == ["model.onnx", "model.onnx.data", "labels.txt"]
    assert manifest.needed(manifest.optimised[:1]) == ["model.onnx.data", "fast.onnx", "labels.txt"]
    assert manifest.needed(manifest.optimised[1:]) == ["slow.onnx", "slow.onnx.data", "labels.txt"]


@pytest.mark.parametrize(("field", "value"), [
    ("of", "fast.onnx"), ("of", None), ("of", ["model.onnx"]), ("graph", "absent.onnx"), ("graph", "model.onnx"), ("graph", 1),
    ("graph", ["fast.onnx"]), ("weights", "model.onnx.data"), ("weights", ["absent"]), ("weights", [[]]), ("ort", ""),
    ("ort", 1.31), ("system", None), ("cpu", ["avx512f"]), ("cpu", {"avx512f": 1})])
def test_an_optimised_graph_that_does_not_fit_is_refused(field, value):
    with pytest.raises(BadBundle, match=r"manifest.json: optimised.*expected .*, got .*\. [A-Z]"):
        parse(**FAST | {"optimised": [OPTIMISED | {field: value}]})


@pytest.mark.parametrize("value", [{}, [[]], ["fast.onnx"], [{}], [OPTIMISED | {"speed": 9}]])
def test_optimised_must_be_a_list_of_whole_graphs(value):
    with pytest.raises(BadBundle, match=r"manifest.json: optimised: expected"):
        parse(**FAST | {"optimised": value})


@pytest.mark.parametrize("text", ["", "{", "\xff", '{"temperature": NaN}', "[" * 100_000])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises(BadBundle):
        parse_manifest(text.encode("latin-1"))


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_numbers_that_are_not_finite_are_refused(number):
    with pytest.raises(BadBundle, match="temperature"):
        parse_manifest(json.dumps(GOOD).replace('"temperature": 1.5', f'"temperature": {number}'))


def test_missing_and_unknown_fields_are_named_together():
    with pytest.raises(BadBundle, match=r"missing fields \['labels'\], unknown fields \['lables'\]"):
        parse_manifest(json.dumps({("lables" if name == "labels" else name): value for name, value in GOOD.items()}))


def test_a_captioners_bundle_needs_its_three_files():
    with pytest.raises(BadBundle, match=r"encoder\.onnx"):
        parse(task="caption")


def test_the_side_is_the_crops_where_there_is_one():
    assert InputSpec(size=73, resize="shorter side", crop=64).side == 64
