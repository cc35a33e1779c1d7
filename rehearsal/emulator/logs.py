"""CloudWatch Logs: every line has an id, by which who follows a log knows it again. The emulator gives none."""

from __future__ import annotations

import uuid
from typing import Any

from ministack.services import cloudwatch_logs

_append = cloudwatch_logs._append_log_events


def complete() -> None:
    """logs:FilterLogEvents."""
    cloudwatch_logs._append_log_events = append


def append(stream: dict[str, Any], events: list[dict[str, Any]]) -> None:
    """Keep lines as the emulator does, each with its id."""
    _append(stream, [{**event, "eventId": uuid.uuid4().hex} for event in events])
