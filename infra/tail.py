"""What the functions of a stage log, in order of time."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.deployed import Deployed, explained

PAUSE_S = 2.0  # CloudWatch answers some five requests a second
LATE_MS = 30_000  # a line may be there so much later than its time says


@dataclass(frozen=True, order=True)
class Line:
    """at_ms: since 1970, by the function's clock. function: its name, such as infer."""

    at_ms: int
    function: str
    text: str = field(compare=False)
    event_id: str = field(compare=False, default="")


def log_groups(outputs: Mapping[str, str]) -> dict[str, str]:
    """Function -> log group, as the stacks tell them."""
    return {name.removesuffix("Log").lower(): group for name, group in outputs.items() if name.endswith("Log")}


class Logs:
    """The log groups of `groups`: function -> log group."""

    def __init__(self, deployed: Deployed, groups: Mapping[str, str]) -> None:
        self._cloudwatch, self._groups = deployed.client("logs"), groups

    def since(self, from_ms: int, *, pattern: str = "") -> Iterator[Line]:
        """All that there is, oldest first. pattern: CloudWatch's filter."""
        with explained():
            yield from heapq.merge(*(self._of(name, from_ms, pattern) for name in self._groups))

    def follow(self, from_ms: int) -> Iterator[Line]:
        """The same, and then what comes, for ever. A line that arrives late is told late."""
        told: deque[Line] = deque()
        while True:
            known = {line.event_id for line in told}
            for line in self.since(from_ms):
                if line.event_id not in known:
                    told.append(line)
                    yield line
            from_ms = max(from_ms, round(1000 * time.time()) - LATE_MS)
            told = deque(line for line in told if line.at_ms >= from_ms)
            time.sleep(PAUSE_S)

    def _of(self, function: str, from_ms: int, pattern: str) -> Iterator[Line]:
        asked: dict[str, Any] = {"logGroupName": self._groups[function], "startTime": from_ms}
        if pattern:
            asked["filterPattern"] = pattern
        for page in self._cloudwatch.get_paginator("filter_log_events").paginate(**asked):
            for event in page["events"]:
                yield Line(event["timestamp"], function, event["message"], event["eventId"])
