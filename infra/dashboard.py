"""One page to watch a stage on, from top to bottom: is anything wrong, who asks, what fails, how fast, what it came to, what it
costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch

from infra.prices import Prices
from infra.signals import BUSY, DOORS, Signals

if TYPE_CHECKING:
    from infra.database import Postgres
    from infra.functions import Worker
    from infra.queues import TaskQueue

WIDTH, HEIGHT = 24, 6
PERCENTILES = ("p50", "p95", "p99")
HOUR = Duration.hours(1)
MB_PER_GB = 1024  # Lambda's GB
ERRORS = ["fields @timestamp, @log, coalesce(error, @message) as what, request_id",
          "filter level = 'ERROR' or @message like /Task timed out|Runtime exited|Runtime.ExitError/",
          "sort @timestamp desc", "limit 50"]

Row = list[cloudwatch.IWidget]
Metrics = Sequence[cloudwatch.IMetric]


class Rows:
    """The dashboard's rows. workers: the functions by name; those of BUSY are shown."""

    def __init__(self, signals: Signals, workers: dict[str, Worker], queues: Sequence[TaskQueue], database: Postgres,
                 prices: Prices) -> None:
        self._signals, self._queues, self._database, self._prices = signals, queues, database, prices
        self._stage, self._all = signals.stage, list(workers.values())
        self._workers = {name: workers[name] for name in BUSY}

    def all(self, alarms: Sequence[cloudwatch.IAlarm]) -> list[Row]:
        """From top to bottom."""
        stage = self._stage.name
        return [
            [_text(f"# Shutterless {stage}\nRead from top to bottom. An alarm's description says what to do first. Beside this page: "
                   f"`shutterless logs {stage}`, `shutterless redrive {stage}`, `shutterless cost {stage}`, "
                   f"`shutterless psql {stage} \"select ...\"`.", height=2)],
            [cloudwatch.AlarmStatusWidget(title="Is anything wrong?", alarms=list(alarms), width=WIDTH, height=4)],
            *self._traffic(), *self._errors(), *self._latency(), *self._functions(), *self._queue(), *self._postgres(),
            *self._answers(), *self._money(), *self._last_errors()]

    def _traffic(self) -> list[Row]:
        signals = self._signals
        return [[_text("## Traffic: who asks")], _shared(
            ("Requests to the API", [signals.of_api("Count", "Sum", "requests")]),
            ("Requests that functions answered", [signals.ours("Requests", name) for name in DOORS]),
            ("Pictures classified: at once (predict), later (infer)",
             [signals.ours("Predictions", name) for name in ("predict", "infer")]))]

    def _errors(self) -> list[Row]:
        signals = self._signals
        return [[_text("## Errors: what fails, and for whom. 4xx is the client's, 5xx is ours")], _shared(
            ("API: 4xx and 5xx", [signals.of_api("4XXError", "Sum", "4xx"), signals.of_api("5XXError", "Sum", "5xx")]),
            ("Calls of functions that ended in an error", self._each("Errors", "Sum")),
            ("Refused and failed, by reason", [signals.ours_by("Failures", "Reason")]))]

    def _latency(self) -> list[Row]:
        signals = self._signals
        steps = [signals.ours(name, "predict", "p50", label=name) for name in ("Decode", "Preprocess", "Inference")]
        return [
            [_text("## Latency, in milliseconds: p50 is the usual call, p99 the slowest hundredth")],
            _shared(("API, until the answer has left",
                     [signals.of_api("Latency", statistic, statistic) for statistic in PERCENTILES]),
                    ("API, waiting for functions",
                     [signals.of_api("IntegrationLatency", statistic, statistic) for statistic in PERCENTILES]),
                    ("predict, where its time goes (p50)", steps)),
            _shared(*((f"{name}, timeout {1000 * self._stage.functions[name].timeout_s:,} ms",
                       [signals.of_function(worker, "Duration", statistic, label=statistic) for statistic in PERCENTILES])
                      for name, worker in self._workers.items()))]

    def _functions(self) -> list[Row]:
        signals = self._signals
        sizes = ", ".join(f"{name} {self._stage.functions[name].memory_mb}" for name in self._workers)
        return [
            [_text("## Functions: how many run, how large they get, how often one starts anew")],
            _shared(("Copies at work at once", self._each("ConcurrentExecutions", "Maximum")),
                    ("Calls refused by throttling", self._each("Throttles", "Sum"))),
            _shared((f"Memory used, MB (of {sizes})", self._reported("MaxMemoryUsed", "Maximum")),
                    ("Cold starts", self._reported("InitDuration", "SampleCount")),
                    ("Start of a new copy, ms (p95)", self._reported("InitDuration", "p95")),
                    ("predict's own start, ms (p95)",
                     [signals.ours(f"Start{step}", "predict", "p95", label=step) for step in ("Imports", "Wait", "Session", "WarmUp")]))]

    def _queue(self) -> list[Row]:
        signals = self._signals
        rows: list[Row] = [[_text("## The way after the 202: queue, deliveries, dead letters")]]
        for each in self._queues:
            waiting = [signals.of_queue(each.queue, f"ApproximateNumberOfMessages{kind}", "Maximum", label)
                       for kind, label in (("Visible", "waiting"), ("NotVisible", "being worked on"))]
            rows.append(_shared(
                (f"{each.task}: messages", waiting),
                (f"{each.task}: age of the oldest message, s",
                 [signals.of_queue(each.queue, "ApproximateAgeOfOldestMessage", "Maximum", "age")]),
                (f"{each.task}: dead letters",
                 [signals.of_queue(each.dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum", "dead letters")])))
        happened = ("Messages", "Done", "Failed", "Duplicates", "Deleted", "Retried", "Malformed", "LastChances")
        return [*rows, _shared(
            ("What became of messages", [signals.ours(name, "infer", label=name) for name in happened]),
            ("From upload to answer, ms", [signals.ours("Latency", "infer", statistic, label=statistic) for statistic in PERCENTILES]),
            ("of which in the queue, ms", [signals.ours("QueueTime", "infer", statistic, label=statistic) for statistic in PERCENTILES]))]

    def _postgres(self) -> list[Row]:
        signals, database = self._signals, self._database
        size = (("Units used, % of those allowed", "ACUUtilization", "Average") if database.is_cluster
                else ("Free storage, bytes", "FreeStorageSpace", "Minimum"))
        return [[_text("## Database")], _shared(*(
            (title, [signals.of_database(database, name, statistic, name)]) for title, name, statistic in (
                ("CPU, %", "CPUUtilization", "Average"),
                (f"Connections (of {self._stage.database.max_connections})", "DatabaseConnections", "Maximum"), size)))]

    def _answers(self) -> list[Row]:
        signals = self._signals
        confidence = [signals.ours("Confidence", name, statistic, label=f"{name} {statistic}")
                      for name in ("predict", "infer") for statistic in ("p10", "p50")]
        labels = cloudwatch.GraphWidget(title="Predictions by label", left=[signals.ours_by("Predictions", "Label")], stacked=True,
                                        width=WIDTH // 2, height=HEIGHT)
        sure = cloudwatch.GraphWidget(title="Confidence: when the lower tenth sinks, pictures are not what the model was trained on",
                                      left=confidence, left_y_axis=cloudwatch.YAxisProps(min=0, max=1), width=WIDTH // 2, height=HEIGHT)
        return [[_text("## Answers: what the model says, and how surely")], [labels, sure]]

    def _money(self) -> list[Row]:
        formula = ("1000 x (billed ms / 1000 x GB x price of a GB-second + calls x price of a call) / predictions; prices of "
                   f"{self._prices.region}, {self._prices.as_of}. Database, API and storage stand in `shutterless cost "
                   f"{self._stage.name}`.")
        return [[_text(f"## Money: US dollars of Lambda for 1,000 predictions\n{formula}", height=2)], _shared(
            *((f"{name}: dollars per 1,000 predictions", [self._dollars(self._workers[name])]) for name in ("predict", "infer")))]

    def _dollars(self, worker: Worker) -> cloudwatch.MathExpression:
        signals, stage = self._signals, self._stage
        gb = stage.functions[worker.name].memory_mb / MB_PER_GB
        second, call = self._prices[f"lambda_{stage.architecture}"].usd, self._prices["lambda_request"].usd
        return cloudwatch.MathExpression(
            expression=f"1000 * (billed / 1000 * {gb:.6f} * {second:.10f} + calls * {call:.10f}) / predictions", label="US dollars",
            period=HOUR, using_metrics={"billed": signals.reported(worker, "BilledDuration", "Sum", period=HOUR),
                                        "calls": worker.function.metric_invocations(statistic="Sum", period=HOUR),
                                        "predictions": signals.ours("Predictions", worker.name, period=HOUR)})

    def _last_errors(self) -> list[Row]:
        names = [worker.log_group.log_group_name for worker in self._all]
        return [[_text("## The last errors that functions wrote")], [cloudwatch.LogQueryWidget(
            title="Newest first", log_group_names=names, query_lines=ERRORS, view=cloudwatch.LogQueryVisualizationType.TABLE,
            width=WIDTH, height=8)]]

    def _each(self, name: str, statistic: str) -> list[cloudwatch.Metric]:
        return [self._signals.of_function(worker, name, statistic) for worker in self._workers.values()]

    def _reported(self, name: str, statistic: str) -> list[cloudwatch.Metric]:
        return [self._signals.reported(worker, name, statistic) for worker in self._workers.values()]


def _text(markdown: str, *, height: int = 1) -> cloudwatch.TextWidget:
    return cloudwatch.TextWidget(markdown=markdown, width=WIDTH, height=height)


def _shared(*graphs: tuple[str, Metrics]) -> Row:
    """Graphs beside each other, as wide as each other."""
    return [cloudwatch.GraphWidget(title=title, left=list(metrics), width=WIDTH // len(graphs), height=HEIGHT,
                                   left_y_axis=cloudwatch.YAxisProps(min=0)) for title, metrics in graphs]
