"""Lines against CloudWatch's specification of the embedded metric format, version of 2026:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

import json
import re
import time

import pytest

from lambdas import metrics
from lambdas.answers import Answer
from lambdas.door import Door, serve
from shutterless.settings import Settings

UNITS = {"Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits",
         "Kilobits", "Megabits", "Gigabits", "Terabits", "Percent", "Count", "Count/Second", "Bytes/Second", "Kilobytes/Second",
         "Megabytes/Second", "Gigabytes/Second", "Terabytes/Second", "Bits/Second", "Kilobits/Second", "Megabits/Second",
         "Gigabits/Second", "Terabits/Second", "None"}


def is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def check(line: str) -> dict:
    """Every MUST of the specification, and PutMetricData's limits on names and dimensions."""
    assert len(line.encode()) <= 256_000
    root = json.loads(line)
    assert root["_aws"].keys() == {"Timestamp", "CloudWatchMetrics"}
    assert abs(root["_aws"]["Timestamp"] - 1000 * time.time()) < 60_000
    for directive in root["_aws"]["CloudWatchMetrics"]:
        assert directive.keys() == {"Namespace", "Dimensions", "Metrics"}
        assert re.fullmatch(r"[\w.\-/#:]{1,255}", directive["Namespace"])
        assert not directive["Namespace"].startswith("AWS/")
        assert directive["Dimensions"]
        for dimensions in directive["Dimensions"]:
            assert len(set(dimensions)) == len(dimensions) <= 30
            for name in dimensions:
                assert 1 <= len(name) <= 250
                assert isinstance(root[name], str)
                assert re.fullmatch(r"[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*", root[name])
                assert len(root[name]) <= 1024
        assert 1 <= len(directive["Metrics"]) <= 100
        for metric in directive["Metrics"]:
            assert metric.keys() <= {"Name", "Unit", "StorageResolution"}
            assert 1 <= len(metric["Name"]) <= 1024
            assert metric["Unit"] in UNITS
            values = root[metric["Name"]]
            assert all(map(is_number, values if isinstance(values, list) else [values]))
    return root


def published(root: dict) -> set[tuple]:
    """(metric, its dimensions' values) that CloudWatch would make of a line."""
    return {(metric["Name"], *(root[name] for name in dimensions))
            for directive in root["_aws"]["CloudWatchMetrics"]
            for dimensions in directive["Dimensions"] for metric in directive["Metrics"]}


@pytest.fixture
def line(context, capsys):
    """`line(answer)`: what a request is counted as that was answered so."""
    def line(answer: Answer) -> dict:
        door = Door(function="predict", bare_path="/", settings=Settings(stage="dev"),
                    routes={("GET", "/"): lambda request: answer})
        serve({"httpMethod": "GET", "path": "/"}, context, door)
        return check(capsys.readouterr().out.rstrip("\n"))
    return line


def test_a_prediction_is_counted_with_its_times_and_by_its_label(line):
    root = line(Answer(body={}, counts={"Predictions": 1, "ColdStarts": 1}, metrics={"Decode": 1.23456, "StartImports": 200.0},
                       label="SeaLake"))
    names = {"Requests", "Predictions", "ColdStarts", "Latency", "Decode", "StartImports"}
    assert published(root) == {(name, "predict", "dev") for name in names} | {("Predictions", "predict", "dev", "SeaLake")}
    assert root["Decode"] == 1.235


@pytest.mark.parametrize("label", ["Wälder", "日本", " ", "", "x" * 5000, "a\nb"])
def test_any_label_is_a_dimension_that_cloudwatch_takes(line, label):
    assert line(Answer(body={}, counts={"Predictions": 1}, label=label))["Label"]


def test_a_failure_is_counted_by_its_reason(line):
    assert ("Failures", "predict", "dev", "BadPicture") in published(line(Answer(status=400, reason="BadPicture")))


def test_a_line_goes_out_in_one_write(monkeypatch):
    written = []

    class Stream:
        write = written.append

        def flush(self) -> None:
            pass

    monkeypatch.setattr(metrics.sys, "stdout", Stream())
    metrics.write({"Function": "f", "Stage": "s", "text": "a\nb"}, {"Requests": 1}, {})
    assert [text.count("\n") for text in written] == [1]
