"""What a stage costs: a month in which nobody asks, and a million pictures. Estimates, with all that they assume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from infra.prices import Prices
from infra.stages import Stage

HOURS = 730.0  # of a month
SECONDS = 3600 * HOURS
MILLION = 1_000_000
KB, MB = 1e6, 1024  # of a GB: as storage and as Lambda's memory are billed
FUNCTIONS_WATCHED, FUNCTION_ALARM_METRICS = 4, 4  # errors and calls, duration, throttles
API_ALARM_METRICS, QUEUE_ALARM_METRICS, PICTURE_ALARM_METRICS = 2, 2, 3
WAF_RULES = 4
POLLERS, POLL_S = 5, 20  # with which Lambda asks an empty queue
PROXY_MIN_UNITS, PROXY_CPUS = 8, 2  # the least that RDS Proxy bills


class Assumption(NamedTuple):
    """A value that this estimate stands on, and where it is from."""

    value: float
    unit: str
    reason: str


ASSUMED = {
    "picture": Assumption(100, "kB", "a JPEG of 640x480; kept for the month"),
    "predict": Assumption(35, "ms billed", "ResNet50, int8, 224 px: 30 measured in the container; eurosat-lite0 takes less"),
    "upload": Assumption(80, "ms billed", "a guess: one PUT to S3, one INSERT"),
    "infer": Assumption(60, "ms billed", "a guess: predict's work, and a GET from S3"),
    "query": Assumption(25, "ms billed", "a guess: one SELECT"),
    "queries": Assumption(1, "a picture", "the result is asked for once, after a while"),
    "starts": Assumption(1, "% of calls", "a guess: calls that start a new copy, when pictures come every hour"),
    "start": Assumption(400, "ms billed", "a guess, near what make bench-cold measures: since 2025, AWS bills INIT"),
    "batch": Assumption(2, "messages", "that one call of infer takes from the queue, of those it may"),
    "log": Assumption(1.5, "kB a call", "our line, Lambda's three, the API's one"),
    "metrics": Assumption(60, "metrics", "of our own, billed for the hours in which something is counted"),
    "images": Assumption(0.2, "GB", "both images in the registry, one version of each"),
}


class Line(NamedTuple):
    """quantity units of a price; usd is their product. of: the price's name in prices.json. assumes: what the quantity stands on,
    names of assumptions; none where it follows from the stage alone."""

    what: str
    quantity: float
    price: str
    usd: float
    of: str
    assumes: tuple[str, ...] = ()


class Estimate:
    """Of one stage, at the prices of one region. Raises NotFound for a price that the table does not have."""

    def __init__(self, stage: Stage, prices: Prices, assumed: Mapping[str, Assumption] = ASSUMED) -> None:
        self.stage, self.prices, self.assumed = stage, prices, assumed

    def idle(self) -> list[Line]:
        """A month without a request. Free allowances are not counted."""
        stage = self.stage
        lines = [*self._database(), self._line("dashboard", 1, "dashboard"),
                 self._line("alarms", alarm_metrics(stage), "alarm_metric"),
                 self._line("Lambda asking the empty queue", POLLERS * SECONDS / POLL_S, "sqs_request"),
                 self._assumed("images in the registry", 1, "ecr_storage", "images")]
        if stage.waf:
            lines += [self._line("firewall", 1, "waf_acl"), self._line("its rules", WAF_RULES, "waf_rule")]
        for name, function in stage.functions.items():
            gb = function.memory_mb / MB
            if function.provisioned:
                lines.append(self._line(f"{name}, kept warm", function.provisioned * gb * SECONDS,
                                        f"lambda_provisioned_{stage.architecture}"))
            if stage.snapstart and name != "migrate":
                lines.append(self._line(f"{name}, its snapshot", gb * SECONDS, "lambda_snapshot"))
        return lines

    def busy(self) -> list[Line]:
        """What a month adds in which pictures come every hour, however many."""
        return [self._assumed("metrics of our own", 1, "metric", "metrics")]

    def later(self) -> list[Line]:
        """A million pictures by POST /upload-image, each kept, answered by infer and asked for."""
        assumed = self.assumed
        queries, calls = assumed["queries"].value, 1 / min(assumed["batch"].value, self.stage.batch)
        return self._present([
            *self._requests(1 + queries, "queries"),
            *self._function("upload", 1, assumed["upload"].value, "upload"),
            *self._function("infer", calls, assumed["infer"].value, "infer", "batch"),
            *self._function("query", queries, queries * assumed["query"].value, "query queries", "queries"),
            self._line("queue", MILLION * (1 + 2 * calls), "sqs_request", "batch"),
            self._line("pictures written", MILLION, "s3_put"), self._line("pictures read", MILLION, "s3_get"),
            self._assumed("pictures kept for a month", MILLION / KB, "s3_storage", "picture"),
            self._logs(1 + queries + calls, "queries", "batch")])

    def at_once(self) -> list[Line]:
        """A million pictures by POST /predict, none kept."""
        return self._present([*self._requests(1), *self._function("predict", 1, self.assumed["predict"].value, "predict"),
                              self._logs(1)])

    def _database(self) -> list[Line]:
        wanted, zones = self.stage.database, 2 if self.stage.database.in_two_zones else 1
        if wanted.aurora:
            lines = [self._line("Aurora, its least units", zones * wanted.aurora.min_units * HOURS, "aurora_unit"),
                     self._line("Aurora, storage", 1, "aurora_storage")]
            proxied = self._line("RDS Proxy", max(PROXY_MIN_UNITS, wanted.aurora.min_units) * HOURS, "proxy_unit")
        else:
            lines = [self._line(f"database, {wanted.instance}", zones * HOURS, wanted.instance),
                     self._line("database, storage", zones * wanted.storage_gb, "db_storage")]
            proxied = self._line("RDS Proxy", PROXY_CPUS * HOURS, "proxy_cpu")
        return self._present([*lines, *([proxied] if wanted.proxy else [])])

    def _requests(self, per_picture: float, *assumes: str) -> list[Line]:
        firewall = [self._line("firewall", MILLION * per_picture, "waf_request", *assumes)] if self.stage.waf else []
        return [self._line("requests to the API", MILLION * per_picture, "api_request", *assumes), *firewall]

    def _function(self, name: str, calls: float, billed_ms: float, duration: str, *assumes: str) -> list[Line]:
        """calls, and billed milliseconds, of one picture; what new copies need for their start is billed beside.

        duration: what billed_ms stands on, with one word or two. assumes: what calls stand on.
        """
        gb, starts = self.stage.functions[name].memory_mb / MB, MILLION * calls * self.assumed["starts"].value / 100
        started = (self._line(f"{name}, restored", starts * gb, "lambda_restore", "starts", *assumes) if self.stage.snapstart else
                   self._line(f"{name}, starts", starts * self.assumed["start"].value / 1000 * gb,
                              f"lambda_{self.stage.architecture}", "starts", "start", *assumes))
        time = MILLION * billed_ms / 1000 * gb
        return [self._line(f"{name}, time", time, f"lambda_{self.stage.architecture}", *duration.split()),
                started, self._line(f"{name}, calls", MILLION * calls, "lambda_request", *assumes)]

    def _logs(self, calls: float, *assumes: str) -> Line:
        return self._assumed("logs", MILLION * calls / KB, "log_ingestion", "log", *assumes)

    def _assumed(self, what: str, times: float, price: str, assumption: str, *assumes: str) -> Line:
        """As often as an assumption's value says."""
        return self._line(what, times * self.assumed[assumption].value, price, assumption, *assumes)

    def _line(self, what: str, quantity: float, price: str, *assumes: str) -> Line:
        usd, per = self.prices[price].usd, self.prices[price].per
        return Line(what, quantity, f"${usd:.10f}".rstrip("0").rstrip(".") + f" a {per}", quantity * usd, price, assumes)

    def _present(self, lines: list[Line]) -> list[Line]:
        return [line for line in lines if line.quantity]


def total(lines: list[Line]) -> float:
    """US dollars."""
    return sum(line.usd for line in lines)


def alarm_metrics(stage: Stage) -> int:
    """How many metrics the stage's alarms look at: AWS bills each. An instance has one alarm more than Aurora, and a canary one
    for each function."""
    database, canary = 2 if stage.database.aurora else 3, FUNCTIONS_WATCHED if stage.canary else 0
    functions = FUNCTIONS_WATCHED * FUNCTION_ALARM_METRICS
    return API_ALARM_METRICS + functions + QUEUE_ALARM_METRICS + PICTURE_ALARM_METRICS + database + canary

