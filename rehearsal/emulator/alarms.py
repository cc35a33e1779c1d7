"""CloudWatch: alarms on a formula of metrics are kept and listed. They are never evaluated: their state does not change."""

from __future__ import annotations

from typing import Any

from ministack.services.cloudformation import provisioners

from rehearsal.emulator.handlers import Properties

UNUSED = {"MetricName": "formula", "Namespace": "Rehearsal/NotEvaluated"}  # no metric is ever of this name

_record = provisioners._cw_metric_alarm_record


def complete() -> None:
    """AWS::CloudWatch::Alarm with Metrics."""
    provisioners._cw_metric_alarm_record = record


def record(name: str, properties: Properties) -> dict[str, Any]:
    """The alarm as it is listed: its threshold, description and actions are real, its formula is not looked at."""
    if not properties.get("Metrics"):
        kept: dict[str, Any] = _record(name, properties)
        return kept
    plain = {key: value for key, value in properties.items() if key != "Metrics"}
    return {**_record(name, {**plain, **UNUSED}), "Metrics": properties["Metrics"]}
