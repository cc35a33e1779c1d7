"""The dashboard, widget by widget, and the alarms: what they show is emitted, and what they ask for can be done."""

import io
import json
import re
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lambdas.batch
from infra import alarms, signals
from infra.cost import alarm_metrics
from lambdas import infer, metrics
from lambdas.door import serve
from lambdas.predictions import Predictions
from lambdas.start import Model
from shutterless.results import Outcome
from shutterless.settings import Settings
from shutterless.statuses import STATUSES
from tests.infra.synthesized import EVERY, SYNTH_S, Template, as_text, of_type, synthesized

pytestmark = pytest.mark.timeout(SYNTH_S)

# https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-metrics-and-dimensions.html and its like for
# AWS Lambda, Amazon SQS and Amazon RDS: namespace -> the dimensions that we ask by -> metrics.
OF_AWS = {
    "AWS/ApiGateway": ({"ApiName", "Stage"}, {"Count", "4XXError", "5XXError", "Latency", "IntegrationLatency"}),
    "AWS/Lambda": ({"FunctionName"}, {"Invocations", "Errors", "Throttles", "Duration", "ConcurrentExecutions"}),
    "AWS/SQS": ({"QueueName"}, {"ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible",
                                "ApproximateAgeOfOldestMessage"}),
    "AWS/RDS": ({"DBInstanceIdentifier"}, {"CPUUtilization", "DatabaseConnections", "FreeStorageSpace"}),
}
REPORT = ("REPORT RequestId: 8f507cfc-xmpl-4697-b07a-ac58fc914c95\tDuration: 187.01 ms\tBilled Duration: 594 ms\t"
          "Memory Size: 1769 MB\tMax Memory Used: 211 MB\tInit Duration: 406.42 ms\t\n")  # Lambda's own example, with our numbers


@pytest.fixture(scope="module")
def watch() -> Template:
    return synthesized("dev").templates["Watch"]


@pytest.fixture(scope="module")
def widgets(watch) -> list[dict[str, Any]]:
    board, = of_type(watch, "AWS::CloudWatch::Dashboard")
    return json.loads(as_text(board["DashboardBody"]))["widgets"]


def shown(widget: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Namespace, name and dimensions' names of every metric that a widget shows, those in formulas included."""
    found = []
    metrics_of_widget: list[Any] = widget["properties"].get("metrics", [])
    for row in metrics_of_widget:
        parts = [part for part in row if isinstance(part, str)]
        if parts:
            found.append((parts[0], parts[1], tuple(parts[2::2])))
        for search in re.findall(r"SEARCH\('\{([^}]*)\} MetricName=\"(\w+)\"", json.dumps(row).replace('\\"', '"')):
            namespace, *dimensions = search[0].split(",")
            found.append((namespace, search[1], tuple(dimensions)))
    return found


@cache
def emitted() -> set[tuple[str, tuple[str, ...]]]:
    """Name and dimensions of each metric that our functions emit: predict is asked, infer tells of its outcomes."""
    with redirect_stdout(io.StringIO()) as said:
        settings = Settings(stage="dev")
        model = Model(settings)
        with model.opening():
            door = Predictions(model).door()
        picture = (Path(__file__).parents[2] / "events/predict.json").read_text()
        assert serve(json.loads(picture), None, door)["statusCode"] == 200
        serve({"httpMethod": "GET", "path": "/nowhere"}, None, door)
        container = SimpleNamespace(settings=settings, is_counted=lambda label: True)
        job = SimpleNamespace(request_id="id", receives=1)
        measured = {"queue_ms": 1.0, "latency_ms": 2.0, "inference_ms": 3.0}
        infer._tell(container, job, Outcome(predicted_label="SeaLake", confidence=0.9, **measured))
        infer._tell(container, job, Outcome(error={"title": "Not a readable picture"}, **measured))
        infer.infer({"Records": []}, None, SimpleNamespace(settings=settings, storage=None, classification=None))
    found = {(metric["Name"], tuple(dimensions)) for line in map(json.loads, said.getvalue().splitlines())
             for directive in line.get("_aws", {}).get("CloudWatchMetrics", [])
             for dimensions in directive["Dimensions"] for metric in directive["Metrics"]}
    counted = re.findall(r'"([A-Z]\w+)"', Path(lambdas.batch.__file__).read_text())
    return found | {(name, ("Function", "Stage")) for name in (*counted, *(status.capitalize() for status in STATUSES))}


def test_our_namespace_and_functions_are_those_of_the_lambdas():
    assert metrics.NAMESPACE == signals.OURS
    assert metrics.BY_FUNCTION == ["Function", "Stage"]


def test_every_metric_of_every_widget_is_one_that_aws_or_our_code_emits(widgets):
    checked = 0
    for widget in widgets:
        for namespace, name, dimensions in shown(widget):
            checked += 1
            if namespace == signals.OURS:
                assert (name, dimensions) in emitted(), (widget["properties"]["title"], name)
            elif namespace.startswith(f"{signals.OURS}/"):
                assert name in signals.REPORTED, name
            else:
                by, names = OF_AWS[namespace]
                assert set(dimensions) == by, (namespace, name)
                assert name in names, (namespace, name)
    assert checked > 80


def test_a_metric_that_nobody_emits_would_be_noticed():
    assert ("Predictions", ("Function", "Stage", "Label")) in emitted()
    assert ("Confidence", ("Function", "Stage")) in emitted()
    assert ("Certainty", ("Function", "Stage")) not in emitted()


def test_the_dashboard_is_read_from_top_to_bottom(widgets):
    headings = [re.match(r"#+ ([\w ]+)", widget["properties"]["markdown"])[1] for widget in widgets if widget["type"] == "text"]
    assert headings == ["Shutterless dev", "Traffic", "Errors", "Latency", "Functions", "The way after the 202", "Database",
                        "Answers", "Money", "The last errors that functions wrote"]
    tops = [widget["y"] for widget in widgets]
    assert tops == sorted(tops)
    taken = [(x, y) for widget in widgets for x in range(widget["x"], widget["x"] + widget["width"])
             for y in range(widget["y"], widget["y"] + widget["height"])]
    assert len(taken) == len(set(taken)), "widgets overlap"
    assert all(widget["x"] + widget["width"] <= 24 for widget in widgets)
    assert all(widget["properties"].get("title") for widget in widgets if widget["type"] != "text")


@pytest.mark.parametrize("promised", [
    ("AWS/ApiGateway", "Count"), ("AWS/ApiGateway", "4XXError"), ("AWS/ApiGateway", "5XXError"), ("AWS/ApiGateway", "Latency"),
    ("AWS/Lambda", "Errors"), ("AWS/Lambda", "Duration"), ("AWS/Lambda", "Throttles"), ("AWS/Lambda", "ConcurrentExecutions"),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"), ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
    ("AWS/RDS", "CPUUtilization"), ("AWS/RDS", "DatabaseConnections"), ("AWS/RDS", "FreeStorageSpace"),
    ("Shutterless", "Predictions"), ("Shutterless", "Confidence"), ("Shutterless", "Duplicates"), ("Shutterless", "Failures"),
    ("Shutterless/dev/predict", "MaxMemoryUsed"), ("Shutterless/dev/infer", "InitDuration"),
    ("Shutterless/dev/predict", "BilledDuration")], ids=" ".join)
def test_what_was_promised_is_shown(widgets, promised):
    assert promised in {(namespace, name) for widget in widgets for namespace, name, _ in shown(widget)}


def test_latency_is_shown_at_p50_p95_and_p99_for_each_function(widgets):
    for function in ("upload", "query", "predict", "infer"):
        widget = next(widget for widget in widgets if widget["properties"].get("title", "").startswith(f"{function}, timeout"))
        assert re.findall(r'"stat": "(p\d+)"', json.dumps(widget)) == ["p50", "p95", "p99"]


def test_dollars_per_thousand_are_what_the_formula_says(widgets):
    """A million ms of 1,769 MB, for 10,000 calls and predictions: by hand, from the price table."""
    widget = next(widget for widget in widgets if "dollars per 1,000" in widget["properties"].get("title", ""))
    expression = next(part["expression"] for row in widget["properties"]["metrics"] for part in row if "expression" in part)
    got = eval(expression, {"billed": 1_000_000, "calls": 10_000, "predictions": 10_000})
    by_hand = 1000 * (1000 * 1769 / 1024 * 0.0000166667 + 10_000 * 0.0000002) / 10_000
    assert got == pytest.approx(by_hand, rel=1e-5)


def test_the_last_errors_are_read_from_all_functions(widgets):
    table = widgets[-1]
    assert table["type"] == "log"
    assert len(re.findall(r"SOURCE", table["properties"]["query"])) == 5
    assert "level = 'ERROR'" in table["properties"]["query"]


def test_metric_filters_find_their_numbers_in_lambda_s_lines(watch):
    expected = {"BilledDuration": "594", "MaxMemoryUsed": "211", "InitDuration": "406.42"}
    filters = of_type(watch, "AWS::Logs::MetricFilter")
    assert len(filters) == 4 * len(expected)
    for told in filters:
        words = told["FilterPattern"].strip("[]").split(", ")
        assert words[-1] == "..."
        named = dict(zip((word.partition("=")[0] for word in words), REPORT.split(), strict=False))
        assert all(named[name] == value for name, _, value in (word.partition("=") for word in words) if value)
        transformation, = told["MetricTransformations"]
        assert named[transformation["MetricValue"].removeprefix("$")] == expected[transformation["MetricName"]]


# Alarms.

ALARM = "AWS::CloudWatch::Alarm"
SUBJECTS = {
    "5XXError": "ApiErrors", "Errors": "PredictErrors", "Duration": "InferSlow", "Throttles": "UploadThrottled",
    "ApproximateAgeOfOldestMessage": "ClassifyWaiting", "ApproximateNumberOfMessagesVisible": "ClassifyDeadLetters",
    "LastChances": "Stalled", "Duplicates": "Duplicates", "DatabaseConnections": "DatabaseConnections",
    "FreeStorageSpace": "DatabaseStorage", "CPUUtilization": "DatabaseCpu"}


def alarms_of(watch: Template) -> dict[str, dict[str, Any]]:
    return {re.sub(r"^Alarms|[0-9A-F]{8}$", "", name): resource["Properties"] for name, resource in watch["Resources"].items()
            if resource["Type"] == ALARM}


def looked_at(alarm: dict[str, Any]) -> list[str]:
    """Names of the metrics of an alarm."""
    return [alarm["MetricName"]] if "MetricName" in alarm else [
        part["MetricStat"]["Metric"]["MetricName"] for part in alarm["Metrics"] if "MetricStat" in part]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_there_is_an_alarm_for_what_needs_a_person(watch, subject):
    assert subject in looked_at(alarms_of(watch)[SUBJECTS[subject]])


def test_every_function_that_works_for_clients_has_its_alarms(watch):
    named = alarms_of(watch)
    assert {f"{function}{what}" for function in ("Upload", "Query", "Predict", "Infer")
            for what in ("Errors", "Slow", "Throttled")} <= named.keys()
    assert named["PredictSlow"]["Threshold"] == 0.8 * 20_000
    assert named["PredictSlow"].get("ExtendedStatistic") == "p99"


def test_every_alarm_says_what_to_look_at_and_do_and_tells_the_topic(watch):
    for name, alarm in alarms_of(watch).items():
        says = as_text(alarm["AlarmDescription"])
        assert len(says) <= 1024, "CloudWatch cuts it there"
        assert re.search(r"\b[Ll]ook\b", says), name
        assert re.search(r"\.$|shutterless redrive \w+$", says), name
        assert alarm["AlarmActions"] == alarm["OKActions"] != []
        assert alarm["TreatMissingData"] == "notBreaching", f"{name}: an idle stage would alarm"


def test_rates_are_shares_so_that_one_error_at_night_wakes_nobody(watch):
    share = alarms_of(watch)["PredictErrors"]
    assert "100 * errors / calls" in [part.get("Expression") for part in share["Metrics"]]
    assert share["Threshold"] == alarms.ERROR_PERCENT


def test_alarms_may_publish_to_the_topic(watch):
    policy, = of_type(watch, "AWS::SNS::TopicPolicy")
    allowed = [told for told in policy["PolicyDocument"]["Statement"] if told["Effect"] == "Allow"]
    assert [told["Principal"] for told in allowed] == [{"Service": "cloudwatch.amazonaws.com"}]
    assert allowed[0]["Condition"]["StringEquals"] == {"aws:SourceAccount": "000000000000"}


@pytest.mark.parametrize("stage", EVERY.values(), ids=EVERY)
def test_the_cost_counts_as_many_alarm_metrics_as_there_are(stage):
    every = [alarm for template in synthesized(stage.name).templates.values() for alarm in of_type(template, ALARM)]
    assert alarm_metrics(stage) == sum(len(looked_at(alarm)) for alarm in every)
