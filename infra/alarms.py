"""What an operator has to act on. Each alarm says what to look at first, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.signals import BUSY, FIVE_MIN, Signals

if TYPE_CHECKING:
    from infra.database import Postgres
    from infra.functions import Worker
    from infra.queues import TaskQueue
    from infra.stages import Stage

ERROR_PERCENT = 5  # of a function's calls
REFUSED_PERCENT = 2  # of the API's answers that are 5xx
NEAR_TIMEOUT = 0.8  # of a function's timeout, at p99
FULL = 0.8  # of the database's connections
FREE_STORAGE = 0.05  # of what was allocated: below a tenth, RDS was to have made more
BUSY_PERCENT = 90  # of the database's CPU, or of Aurora's units
DUPLICATE_PERCENT = 20  # of messages: SQS itself repeats one in some ten thousand
GIB = 1024 ** 3
WAITING_VISIBILITIES = 2  # times the visibility: by then a message was tried in vain, or nobody tries

_MORE = cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD
_LESS = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD


class Alarms(Construct):
    """`.all`, and `.topic`, which hears of each when it begins and when it ends."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, signals: Signals) -> None:
        super().__init__(scope, construct_id)
        self._stage, self._signals = stage, signals
        self.all: list[cloudwatch.Alarm] = []
        self.topic = sns.Topic(self, "Topic", display_name=f"Shutterless {stage.name}", enforce_ssl=True)
        self._let_cloudwatch_publish()
        if stage.alarm_email:
            self.topic.add_subscription(subscriptions.EmailSubscription(stage.alarm_email))

    def _let_cloudwatch_publish(self) -> None:
        """A topic with a policy of its own loses the usual one, by which the account's alarms may publish."""
        stack = cdk.Stack.of(self)
        self.topic.add_to_resource_policy(iam.PolicyStatement(
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")], actions=["sns:Publish"],
            resources=[self.topic.topic_arn], conditions={
                "ArnLike": {"aws:SourceArn": stack.format_arn(service="cloudwatch", resource="alarm", resource_name="*",
                                                              arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME)},
                "StringEquals": {"aws:SourceAccount": stack.account}}))

    def watch_api(self) -> None:
        signals = self._signals
        share = cloudwatch.MathExpression(
            expression="100 * failed / asked", label="5xx, % of requests", period=FIVE_MIN,
            using_metrics={"failed": signals.of_api("5XXError", "Sum", "5xx"),
                           "asked": signals.of_api("Count", "Sum", "requests")})
        self._alarm(
            "ApiErrors", share, REFUSED_PERCENT, times=2,
            says=f"More than {REFUSED_PERCENT} % of the API's answers are 5xx.",
            look="Look at the row Errors of the dashboard: if a function fails, read its last errors at the dashboard's end; if "
                 "none does, the API's access log names the refusal.",
            do="If it began with a deploy, deploy the version before; else mend what the error names.")

    def watch_functions(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            if worker.name in BUSY:
                self._watch_function(worker)

    def _watch_function(self, worker: Worker) -> None:
        signals, name = self._signals, worker.name
        title, timeout_s = name.title(), self._stage.functions[name].timeout_s
        share = cloudwatch.MathExpression(
            expression="100 * errors / calls", label="errors, % of calls", period=FIVE_MIN,
            using_metrics={"errors": signals.of_function(worker, "Errors", "Sum"),
                           "calls": signals.of_function(worker, "Invocations", "Sum")})
        self._alarm(
            f"{title}Errors", share, ERROR_PERCENT, times=2,
            says=f"More than {ERROR_PERCENT} % of the calls of {name} end in an error.",
            look="Look at the last errors, at the dashboard's end: a time-out or a lack of memory stands there as such.",
            do="If it began with a deploy, deploy the version before; else mend what the error names.")
        slowest = signals.of_function(worker, "Duration", "p99")
        self._alarm(
            f"{title}Slow", slowest, 1000 * NEAR_TIMEOUT * timeout_s, times=3,
            says=f"The slowest hundredth of the calls of {name} takes more than {NEAR_TIMEOUT:.0%} of its timeout of "
                 f"{timeout_s} s.",
            look="Look at the database's CPU, at cold starts and at the memory it uses.",
            do="Give it more memory in infra/stages.py, which gives it more CPU, or take a larger database.")
        self._alarm(
            f"{title}Throttled", signals.of_function(worker, "Throttles", "Sum"), 0, times=2,
            says=f"AWS refuses calls of {name}: as many copies run as the account or its reservation allows.",
            look="Look at the dashboard's row Functions: which function's copies have grown.",
            do="Ask for more under Service Quotas, Lambda, Concurrent executions (shutterless doctor shows the command), or "
               "lower the throttle in infra/stages.py.")

    def watch_queue(self, queue: TaskQueue) -> None:
        signals = self._signals
        task, waiting_s = queue.task, WAITING_VISIBILITIES * self._stage.visibility_s
        oldest = signals.of_queue(queue.queue, "ApproximateAgeOfOldestMessage", "Maximum", "oldest")
        self._alarm(
            f"{task.title()}Waiting", oldest, waiting_s, times=2,
            says=f"A picture has been waiting for {waiting_s} s. Nothing is lost meanwhile.",
            look="Look whether infer fails or is throttled.",
            do="If it does, mend that first; if it works well, more comes than it can do: raise queue_concurrency in "
               "infra/stages.py.")
        dead = signals.of_queue(queue.dead_letters, "ApproximateNumberOfMessagesVisible", "Maximum", "dead letters")
        self._alarm(
            f"{task.title()}DeadLetters", dead, 0,
            says=f"Pictures were given up after {self._stage.max_receives} deliveries, and are kept for 14 days.",
            look="Look at the last errors, at the dashboard's end.",
            do=f"Mend their cause, then send them back: shutterless redrive {self._stage.name}")

    def watch_pictures(self) -> None:
        """What infer itself counts."""
        signals = self._signals
        self._alarm(
            "Stalled", signals.ours("LastChances", "infer"), 0,
            says="Results are marked stalled: their last delivery has begun, and dead letters may follow.",
            look="Look at the last errors, at the dashboard's end.",
            do="Mend what infer names there, most often the database or the model, then send them back: "
               f"shutterless redrive {self._stage.name}")
        share = cloudwatch.MathExpression(
            expression="100 * duplicates / messages", label="duplicates, % of messages", period=FIVE_MIN,
            using_metrics={"duplicates": signals.ours("Duplicates", "infer"), "messages": signals.ours("Messages", "infer")})
        self._alarm(
            "Duplicates", share, DUPLICATE_PERCENT, times=3,
            says=f"More than {DUPLICATE_PERCENT} % of the messages name a picture that was answered already. No result is wrong, "
                 "but work is paid twice.",
            look="Look for time-outs among the last errors: infer then ends before its messages are acknowledged. If there are "
                 "none, a client sends its forms again.",
            do="Against time-outs, give infer more memory or time in infra/stages.py; a client has to keep its request_id, and "
               "ask GET /results instead of sending again.")

    def watch_database(self, database: Postgres) -> None:
        signals, wanted = self._signals, self._stage.database
        most = FULL * wanted.max_connections
        connections = signals.of_database(database, "DatabaseConnections", "Maximum", "connections")
        self._alarm(
            "DatabaseConnections", connections, most,
            says=f"More than {most:.0f} of {wanted.max_connections} connections are open.",
            look="Look at the dashboard's row Functions: which function's copies have grown.",
            do="Reserve its concurrency in infra/stages.py, or turn the proxy on.")
        if database.is_cluster:
            units = signals.of_database(database, "ACUUtilization", "Average", "units")
            self._alarm(
                "DatabaseUnits", units, BUSY_PERCENT, times=3,
                says=f"Aurora uses more than {BUSY_PERCENT} % of the units it may.",
                look="Look at its slow queries in CloudWatch Database Insights.",
                do="Raise max_units in infra/stages.py.")
            return
        cpu = signals.of_database(database, "CPUUtilization", "Average", "CPU")
        self._alarm(
            "DatabaseCpu", cpu, BUSY_PERCENT, times=3,
            says=f"The database's CPU has been above {BUSY_PERCENT} % for a quarter of an hour.",
            look="Look at the dashboard's row Traffic: whether clients ask /stats or /results often.",
            do="Lower the throttle, or take a larger instance in infra/stages.py.")
        free, least = signals.of_database(database, "FreeStorageSpace", "Minimum", "free"), FREE_STORAGE * wanted.storage_gb * GIB
        self._alarm(
            "DatabaseStorage", free, least, less=True,
            says=f"Less than {FREE_STORAGE:.0%} of the database's {wanted.storage_gb} GB is free, and RDS made no more.",
            look="Look at the dashboard's row Database: how fast it sinks.",
            do="Raise max_storage_gb in infra/stages.py before it is full and refuses to write.")

    def _alarm(self, name: str, metric: cloudwatch.IMetric, threshold: float, *, says: str, look: str, do: str, times: int = 1,
               less: bool = False) -> None:
        """Above the threshold (`less`: below), in as many periods of five minutes. Silence is no alarm: nobody may be asking.

        says: what is wrong. look: where it can be seen why. do: what then.
        """
        alarm = cloudwatch.Alarm(
            self, name, metric=_bare(metric), threshold=threshold, evaluation_periods=times,
            comparison_operator=_LESS if less else _MORE, alarm_description=f"{says} {look} {do}",
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING)
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))
        self.all.append(alarm)


def _bare(metric: cloudwatch.IMetric) -> cloudwatch.IMetric:
    """Without its label: then an alarm on one metric has CloudWatch's short form, which people and emulators read best."""
    if not isinstance(metric, cloudwatch.Metric):
        return metric
    return cloudwatch.Metric(namespace=metric.namespace, metric_name=metric.metric_name, dimensions_map=metric.dimensions,
                             statistic=metric.statistic, period=metric.period)
