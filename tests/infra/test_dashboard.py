"""The dashboard's widgets and the alarms, each promise with a change of the source that breaks it. test_monitoring reads those of
whole stages."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs

import infra.alarms
import infra.dashboard
from infra.prices import prices_of
from infra.signals import Signals
from infra.stages import STAGES, Stage
from tests.infra.synthesized import SYNTH_S, as_text, of_type

pytestmark = pytest.mark.timeout(SYNTH_S)
LAMBDA = f"arn:aws:lambda:us-east-1:{'0' * 12}"
FUNCTIONS = ("upload", "query", "predict", "infer")  # that work for clients
SOURCES = {module: Path(module.__file__).read_text(encoding="utf-8") for module in (infra.dashboard, infra.alarms)}


class Shown(NamedTuple):
    """One line of a graph. of: the function, or what else its dimensions name. name: the metric."""

    namespace: str
    name: str
    of: str
    statistic: str


class Watched(NamedTuple):
    """stage: whose. widgets: of the dashboard. alarms: their properties, by name."""

    stage: Stage
    widgets: list[dict[str, Any]]
    alarms: dict[str, dict[str, Any]]


def watch(stage: Stage, module: ModuleType | None = None, before: str = "", after: str = "") -> Watched:
    """A stage's dashboard and alarms over things that have only names, of the sources, or of a changed text of `module`."""
    made = {}
    for each, source in SOURCES.items():
        made[each] = ModuleType(f"{each.__name__}_of_a_test")
        exec(compile(source.replace(before, after) if each is module else source, each.__file__, "exec"), made[each].__dict__)
    stack = cdk.Stack(cdk.App(analytics_reporting=False), "Watch", env=cdk.Environment(account="0" * 12, region="us-east-1"))
    workers = {name: SimpleNamespace(
        name=name, function=lambda_.Function.from_function_arn(stack, name, f"{LAMBDA}:function:{name}"),
        log_group=logs.LogGroup.from_log_group_name(stack, f"{name}Log", f"log-{name}")) for name in (*FUNCTIONS, "migrate")}
    queues = [SimpleNamespace(task="classify", **{name: sqs.Queue.from_queue_arn(
        stack, name, f"arn:aws:sqs:us-east-1:{'0' * 12}:{name}") for name in ("queue", "dead_letters")})]
    database = SimpleNamespace(dimension="DBInstanceIdentifier", identifier="database", is_cluster=False)
    signals = Signals(stage, SimpleNamespace(rest_api_name=f"shutterless-{stage.name}"))
    alarms = made[infra.alarms].Alarms(stack, "Alarms", stage=stage, signals=signals)
    alarms.watch_api()
    alarms.watch_functions(workers.values())
    alarms.watch_queue(queues[0])
    alarms.watch_pictures()
    alarms.watch_database(database)
    rows = made[infra.dashboard].Rows(signals, workers, queues, database, prices_of("us-east-1"))
    cloudwatch.Dashboard(stack, "Dashboard", widgets=rows.all(alarms.all))
    template = assertions.Template.from_stack(stack).to_json()
    (board,) = of_type(template, "AWS::CloudWatch::Dashboard")
    return Watched(stage, json.loads(as_text(board["DashboardBody"]))["widgets"], {
        re.sub(r"^Alarms|[0-9A-F]{8}$", "", name): each["Properties"] for name, each in template["Resources"].items()
        if each["Type"] == "AWS::CloudWatch::Alarm"})


def lines(watched: Watched, title: str) -> list[Shown]:
    """Of the graphs whose title begins so."""
    found, before = [], []
    graphs = [each for each in watched.widgets if each["properties"].get("title", "").startswith(title)]
    assert graphs, f"no graph is called {title}"
    for row in (row for graph in graphs for row in graph["properties"]["metrics"]):
        words = [word for word in row if isinstance(word, str)]
        options = next((word for word in row if isinstance(word, dict)), {})
        if words:
            before = [old if word == "." else word for word, old in zip(words, [*before, *words[len(before):]], strict=False)]
            dimensions = dict(zip(before[2::2], before[3::2], strict=True))
            of = dimensions.get("FunctionName") or dimensions.get("Function") or next(iter(dimensions.values()), "")
            found.append(Shown(before[0], before[1], of, options.get("stat", "Average")))
    return found


def expressions(watched: Watched, title: str) -> list[str]:
    return [word["expression"] for each in watched.widgets if each["properties"].get("title", "").startswith(title)
            for row in each["properties"]["metrics"] for word in row if isinstance(word, dict) and "expression" in word]


def of_each(watched: Watched, title: str, name: str, statistic: str) -> None:
    assert {(line.name, line.of, line.statistic) for line in lines(watched, title)} == {
        (name, each, statistic) for each in FUNCTIONS}


# Promises of the dashboard, in the and the page's order.

def alarms_stand_at_the_top(watched: Watched) -> None:
    first = next(each for each in watched.widgets if each["type"] != "text")
    assert first["type"] == "alarm"
    assert len(first["properties"]["alarms"]) == len(watched.alarms) > 15


def traffic_of_the_api_and_of_each_function(watched: Watched) -> None:
    assert lines(watched, "Requests to the API") == [Shown("AWS/ApiGateway", "Count", f"shutterless-{watched.stage.name}", "Sum")]
    assert {line.of for line in lines(watched, "Requests that functions answered")} == {"upload", "query", "predict"}
    assert {(line.name, line.of) for line in lines(watched, "Pictures classified")} == {("Predictions", "predict"),
                                                                                         ("Predictions", "infer")}


def errors_of_each_function(watched: Watched) -> None:
    of_each(watched, "Calls of functions that ended in an error", "Errors", "Sum")
    (by_reason,) = expressions(watched, "Refused and failed, by reason")
    assert "{Shutterless,Function,Stage,Reason}" in by_reason


def the_api_s_4xx_and_5xx(watched: Watched) -> None:
    assert {line.name for line in lines(watched, "API: 4xx and 5xx")} == {"4XXError", "5XXError"}


def the_api_s_latency_at_three_percentiles(watched: Watched) -> None:
    assert [(line.name, line.statistic) for line in lines(watched, "API, until the answer has left")] == [
        ("Latency", "p50"), ("Latency", "p95"), ("Latency", "p99")]


def latency_of_each_function_at_three_percentiles_beside_its_timeout(watched: Watched) -> None:
    for name in FUNCTIONS:
        timeout = f"{1000 * watched.stage.functions[name].timeout_s:,} ms"
        assert [(line.name, line.of, line.statistic) for line in lines(watched, f"{name}, timeout {timeout}")] == [
            ("Duration", name, "p50"), ("Duration", name, "p95"), ("Duration", name, "p99")]


def memory_of_each_function(watched: Watched) -> None:
    assert {(line.namespace, line.name, line.statistic) for line in lines(watched, "Memory used, MB (of upload 512")} == {
        (f"Shutterless/{watched.stage.name}/{name}", "MaxMemoryUsed", "Maximum") for name in FUNCTIONS}


def cold_starts_of_each_function(watched: Watched) -> None:
    assert {(line.namespace, line.name, line.statistic) for line in lines(watched, "Cold starts")} == {
        (f"Shutterless/{watched.stage.name}/{name}", "InitDuration", "SampleCount") for name in FUNCTIONS}


def concurrency_of_each_function(watched: Watched) -> None:
    of_each(watched, "Copies at work at once", "ConcurrentExecutions", "Maximum")


def throttles_of_each_function(watched: Watched) -> None:
    of_each(watched, "Calls refused by throttling", "Throttles", "Sum")


def depth_and_age_of_the_queue(watched: Watched) -> None:
    assert {(line.name, line.of) for line in lines(watched, "classify: messages")} == {
        ("ApproximateNumberOfMessagesVisible", "queue"), ("ApproximateNumberOfMessagesNotVisible", "queue")}
    assert [(line.name, line.of) for line in lines(watched, "classify: age")] == [("ApproximateAgeOfOldestMessage", "queue")]


def dead_letters(watched: Watched) -> None:
    assert [(line.name, line.of) for line in lines(watched, "classify: dead letters")] == [
        ("ApproximateNumberOfMessagesVisible", "dead_letters")]


def duplicates_beside_what_became_of_messages(watched: Watched) -> None:
    assert {"Messages", "Done", "Failed", "Duplicates"} <= {line.name for line in lines(watched, "What became of messages")}


def cpu_connections_and_storage_of_the_database(watched: Watched) -> None:
    limit = f"Connections (of {watched.stage.database.max_connections})"
    found = [line for title in ("CPU, %", limit, "Free storage") for line in lines(watched, title)]
    assert [line.name for line in found] == ["CPUUtilization", "DatabaseConnections", "FreeStorageSpace"]


def predictions_per_label(watched: Watched) -> None:
    (by_label,) = expressions(watched, "Predictions by label")
    assert "{Shutterless,Function,Stage,Label}" in by_label
    assert 'MetricName="Predictions"' in by_label


def confidence_and_its_lower_tenth(watched: Watched) -> None:
    assert {(line.name, line.of, line.statistic) for line in lines(watched, "Confidence")} == {
        ("Confidence", name, statistic) for name in ("predict", "infer") for statistic in ("p10", "p50")}


def dollars_from_billed_duration_and_the_price_table_with_the_formula_beside(watched: Watched) -> None:
    for name in ("predict", "infer"):
        assert {line.name for line in lines(watched, f"{name}: dollars per 1,000 predictions")} == {
            "BilledDuration", "Invocations", "Predictions"}
        (formula,) = expressions(watched, f"{name}: dollars per 1,000 predictions")
        by_hand = 1000 * (1000 * 1769 / 1024 * 0.0000166667 + 10_000 * 0.0000002) / 10_000
        assert eval(formula, {"billed": 1_000_000, "calls": 10_000, "predictions": 10_000}) == pytest.approx(by_hand, rel=1e-5)
    assert any("1000 x (billed ms / 1000 x GB x price" in each["properties"].get("markdown", "") for each in watched.widgets)


def a_table_of_the_last_errors_of_all_functions(watched: Watched) -> None:
    table = watched.widgets[-1]
    assert (table["type"], table["properties"]["view"]) == ("log", "table")
    query = table["properties"]["query"]
    assert set(re.findall(r"SOURCE 'log-(\w+)'", query)) == {*FUNCTIONS, "migrate"}
    assert "sort @timestamp desc" in query
    assert "level = 'ERROR'" in query


# Promises of the alarms: what is looked at, and above or below what.

def alarm(name: str, *metrics: str, threshold: float) -> Callable[[Watched], None]:
    def check(watched: Watched) -> None:
        """The threshold as it is in dev."""
        told = watched.alarms[name]
        looked_at = [told["MetricName"]] if "MetricName" in told else [
            part["MetricStat"]["Metric"]["MetricName"] for part in told["Metrics"] if "MetricStat" in part]
        assert sorted(looked_at) == sorted(metrics)
        assert watched.stage.name != "dev" or told["Threshold"] == pytest.approx(threshold)
    check.__name__ = f"alarm_{name}"
    return check


def every_alarm_says_what_is_wrong_where_to_look_and_what_to_do(watched: Watched) -> None:
    for name, told in watched.alarms.items():
        says = told["AlarmDescription"]
        wrong, looks, after = re.fullmatch(r"(.+?\.) (Look .+?\.) ([A-Z].+)", says, re.DOTALL).groups()
        assert min(map(len, (wrong, looks, after))) > 25, name
        assert re.search(r"infra/stages\.py|shutterless redrive \w+$|deploy the version before", after), name
        assert len(says) <= 1024, "CloudWatch cuts it there"


def every_alarm_tells_the_topic_when_it_begins_and_ends_and_none_of_silence(watched: Watched) -> None:
    for told in watched.alarms.values():
        assert told["AlarmActions"] == told["OKActions"] != []
        assert told["TreatMissingData"] == "notBreaching"


BOARD, ALARMS = infra.dashboard, infra.alarms
BREAKS: dict[Callable[[Watched], None], tuple[ModuleType, str, str]] = {
    alarms_stand_at_the_top: (BOARD, "alarms=list(alarms)", "alarms=list(alarms)[:1]"),
    traffic_of_the_api_and_of_each_function: (BOARD, 'signals.of_api("Count", "Sum", "requests")',
                                              'signals.of_api("Latency", "Sum", "requests")'),
    errors_of_each_function: (BOARD, 'self._each("Errors", "Sum")', 'self._each("Errors", "Sum")[:3]'),
    the_api_s_4xx_and_5xx: (BOARD, 'signals.of_api("4XXError", "Sum", "4xx"), ', ""),
    the_api_s_latency_at_three_percentiles: (BOARD, 'signals.of_api("Latency", statistic', 'signals.of_api("Count", statistic'),
    latency_of_each_function_at_three_percentiles_beside_its_timeout: (BOARD, '("p50", "p95", "p99")', '("p50", "p99")'),
    memory_of_each_function: (BOARD, 'self._reported("MaxMemoryUsed", "Maximum")', 'self._reported("MaxMemoryUsed", "Average")'),
    cold_starts_of_each_function: (BOARD, 'self._reported("InitDuration", "SampleCount")',
                                   'self._reported("InitDuration", "SampleCount")[1:]'),
    concurrency_of_each_function: (BOARD, '"ConcurrentExecutions", "Maximum"', '"ConcurrentExecutions", "Sum"'),
    throttles_of_each_function: (BOARD, 'self._each("Throttles", "Sum")', 'self._each("Throttles", "Sum")[:1]'),
    depth_and_age_of_the_queue: (BOARD, '"ApproximateAgeOfOldestMessage"', '"NumberOfMessagesSent"'),
    dead_letters: (BOARD, "signals.of_queue(each.dead_letters,", "signals.of_queue(each.queue,"),
    duplicates_beside_what_became_of_messages: (BOARD, '"Duplicates", "Deleted"', '"Deleted"'),
    cpu_connections_and_storage_of_the_database: (BOARD, '"FreeStorageSpace", "Minimum"', '"FreeableMemory", "Minimum"'),
    predictions_per_label: (BOARD, 'signals.ours_by("Predictions", "Label")', 'signals.ours_by("Predictions", "Reason")'),
    confidence_and_its_lower_tenth: (BOARD, '("p10", "p50")', '("p50", "p90")'),
    dollars_from_billed_duration_and_the_price_table_with_the_formula_beside: (BOARD, "(billed / 1000 *", "(billed *"),
    a_table_of_the_last_errors_of_all_functions: (BOARD, "for worker in self._all]", "for worker in self._workers.values()]"),
    alarm("ApiErrors", "5XXError", "Count", threshold=2): (ALARMS, '"5XXError"', '"4XXError"'),
    alarm("PredictErrors", "Errors", "Invocations", threshold=5): (ALARMS, "ERROR_PERCENT = 5 ", "ERROR_PERCENT = 50 "),
    alarm("InferSlow", "Duration", threshold=48_000): (ALARMS, "NEAR_TIMEOUT = 0.8", "NEAR_TIMEOUT = 2"),
    alarm("UploadThrottled", "Throttles", threshold=0): (ALARMS, '"Throttles", "Sum"), 0,', '"Throttles", "Sum"), 1000,'),
    alarm("ClassifyWaiting", "ApproximateAgeOfOldestMessage", threshold=720): (ALARMS, "WAITING_VISIBILITIES = 2",
                                                                               "WAITING_VISIBILITIES = 200"),
    alarm("ClassifyDeadLetters", "ApproximateNumberOfMessagesVisible", threshold=0): (
        ALARMS, '"ApproximateNumberOfMessagesVisible"', '"NumberOfMessagesSent"'),
    alarm("Stalled", "LastChances", threshold=0): (ALARMS, '"LastChances"', '"Retried"'),
    alarm("Duplicates", "Duplicates", "Messages", threshold=20): (ALARMS, "DUPLICATE_PERCENT = 20", "DUPLICATE_PERCENT = 200"),
    alarm("DatabaseConnections", "DatabaseConnections", threshold=80): (ALARMS, "FULL = 0.8", "FULL = 1.2"),
    alarm("DatabaseStorage", "FreeStorageSpace", threshold=1024 ** 3): (ALARMS, '"FreeStorageSpace"', '"FreeableMemory"'),
    alarm("DatabaseCpu", "CPUUtilization", threshold=90): (ALARMS, "BUSY_PERCENT = 90", "BUSY_PERCENT = 100"),
    every_alarm_says_what_is_wrong_where_to_look_and_what_to_do: (ALARMS, '{says} {look} {do}', '{says} {look}'),
    every_alarm_tells_the_topic_when_it_begins_and_ends_and_none_of_silence: (
        ALARMS, "alarm.add_ok_action(actions.SnsAction(self.topic))", "pass"),
}
PROMISES = pytest.mark.parametrize("promise", BREAKS, ids=lambda promise: promise.__name__)


@pytest.fixture(scope="module", params=STAGES)
def watched(request) -> Watched:
    return watch(STAGES[request.param])


@PROMISES
def test_every_stage_keeps_it(promise, watched):
    promise(watched)


@PROMISES
def test_it_notices_a_change_that_breaks_it(promise):
    module, before, after = BREAKS[promise]
    assert SOURCES[module].count(before) == 1, before
    with pytest.raises((AssertionError, AttributeError, KeyError)):
        promise(watch(STAGES["dev"], module, before, after))
