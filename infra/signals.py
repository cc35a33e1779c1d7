"""What can be measured of a deployed stage: each of AWS's metrics and of our functions' own, once, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aws_cdk import Duration
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sqs as sqs
from constructs import Construct

if TYPE_CHECKING:
    from infra.database import Postgres
    from infra.functions import Worker
    from infra.stages import Stage

OURS = "Shutterless"  # the namespace of the lines that our functions count by; lambdas.metrics writes them
DOORS = ("upload", "query", "predict")
BUSY = (*DOORS, "infer")  # those that work for clients; migrate runs at deploys
FIVE_MIN = Duration.minutes(5)

# A line that Lambda writes at the end of each call; words are separated by blanks or tabs.
# https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html
REPORT = ["kind=REPORT", "id_word", "id", "duration_word", "duration", "duration_unit", "billed_word", "billed_word2", "billed",
          "billed_unit", "size_word", "size_word2", "size", "size_unit", "used_word", "used_word2", "used_word3", "used",
          "used_unit"]
INIT = ["init_word=Init", "init_word2", "init", "init_unit"]
REPORTED = {"BilledDuration": "$billed", "MaxMemoryUsed": "$used", "InitDuration": "$init"}


class Signals:
    """Of one stage. Statistics are CloudWatch's: Sum, Average, p99, ..."""

    def __init__(self, stage: Stage, api: apigateway.RestApi) -> None:
        self.stage, self._api = stage, api

    def ours(self, name: str, function: str, statistic: str = "Sum", *, label: str | None = None,
             period: Duration = FIVE_MIN) -> cloudwatch.Metric:
        """What our own code counts."""
        return cloudwatch.Metric(namespace=OURS, metric_name=name, statistic=statistic, period=period, label=label or function,
                                 dimensions_map={"Function": function, "Stage": self.stage.name})

    def ours_by(self, name: str, dimension: str) -> cloudwatch.MathExpression:
        """One line for each value of a dimension, such as Label, that there is."""
        found = f"{{{OURS},Function,Stage,{dimension}}} MetricName=\"{name}\" Stage=\"{self.stage.name}\""
        return cloudwatch.MathExpression(expression=f"SEARCH('{found}', 'Sum', 300)", using_metrics={}, label="", period=FIVE_MIN)

    def of_function(self, worker: Worker, name: str, statistic: str, *, label: str | None = None) -> cloudwatch.Metric:
        """AWS/Lambda: Invocations, Errors, Throttles, Duration, ConcurrentExecutions."""
        return worker.function.metric(name, statistic=statistic, period=FIVE_MIN, label=label or worker.name)

    def reported(self, worker: Worker, name: str, statistic: str, *, label: str | None = None,
                 period: Duration = FIVE_MIN) -> cloudwatch.Metric:
        """REPORTED, of what Lambda's own lines say."""
        return cloudwatch.Metric(namespace=self._reports_of(worker), metric_name=name, statistic=statistic, period=period,
                                 label=label or worker.name)

    def read_reports(self, scope: Construct, worker: Worker) -> None:
        """Metrics out of Lambda's lines. They have no dimensions, so the function stands in the namespace."""
        for name, value in REPORTED.items():
            words = [*REPORT, *(INIT if name == "InitDuration" else []), "..."]
            logs.MetricFilter(scope, f"{worker.name.title()}{name}", log_group=worker.log_group,
                              filter_pattern=logs.FilterPattern.literal(f"[{', '.join(words)}]"),
                              metric_namespace=self._reports_of(worker), metric_name=name, metric_value=value)

    def _reports_of(self, worker: Worker) -> str:
        return f"{OURS}/{self.stage.name}/{worker.name}"

    def of_api(self, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        """AWS/ApiGateway: Count, 4XXError, 5XXError, Latency, IntegrationLatency."""
        return cloudwatch.Metric(namespace="AWS/ApiGateway", metric_name=name, statistic=statistic, period=FIVE_MIN, label=label,
                                 dimensions_map={"ApiName": self._api.rest_api_name, "Stage": self.stage.name})

    def of_queue(self, queue: sqs.IQueue, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        """AWS/SQS: ApproximateNumberOfMessagesVisible, ...NotVisible, ApproximateAgeOfOldestMessage (s)."""
        return queue.metric(name, statistic=statistic, period=FIVE_MIN, label=label)

    def of_database(self, database: Postgres, name: str, statistic: str, label: str) -> cloudwatch.Metric:
        """AWS/RDS: CPUUtilization (%), DatabaseConnections, FreeStorageSpace (bytes; an instance's), ACUUtilization (Aurora's)."""
        return cloudwatch.Metric(namespace="AWS/RDS", metric_name=name, statistic=statistic, period=FIVE_MIN, label=label,
                                 dimensions_map={database.dimension: database.identifier})
