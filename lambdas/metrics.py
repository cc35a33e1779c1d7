"""One line per request on standard output: a log entry that CloudWatch also counts from (embedded metric format).

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

NAMESPACE = "Shutterless"
BY_FUNCTION = ["Function", "Stage"]


def write(properties: Mapping[str, Any], counts: Mapping[str, float], milliseconds: Mapping[str, float], *,
          apart: Mapping[str, str] | None = None, shares: Mapping[str, float] | None = None) -> None:
    """`properties` hold Function, Stage, and whatever the log shall say beside them. `apart`: a count -> the property by
    which it is counted as well, such as Predictions by Label. `shares`: from 0 to 1, such as Confidence."""
    apart, shares = apart or {}, shares or {}
    named = [{"Name": name, "Unit": "Count"} for name in counts if name not in apart]
    named += [{"Name": name, "Unit": "Milliseconds"} for name in milliseconds]
    named += [{"Name": name, "Unit": "None"} for name in shares]
    directives = [_directive([BY_FUNCTION], named)]
    directives += [_directive([BY_FUNCTION, [*BY_FUNCTION, by]], [{"Name": name, "Unit": "Count"}]) for name, by in apart.items()]
    write_line({"_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": directives},
                **properties, **counts, **{name: round(value, 3) for name, value in milliseconds.items()},
                **{name: round(value, 6) for name, value in shares.items()}})


def write_line(entry: Mapping[str, Any]) -> None:
    """One write, so that no other line comes between."""
    sys.stdout.write(json.dumps(entry, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _directive(dimensions: list[list[str]], metrics: list[dict[str, str]]) -> dict[str, Any]:
    return {"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics}
