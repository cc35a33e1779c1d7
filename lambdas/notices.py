"""S3's notifications, as SQS delivers them or S3 itself: which objects came.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus

from shutterless.errors import BadRequest

OLDEST = timedelta(days=28)  # a queue and its dead letters keep a message for 14 days each

_EVENT = "Expected a batch of SQS with S3's notifications, or such a notification itself, got something else."


@dataclass(frozen=True)
class Notice:
    """An object came. version: None in a bucket that keeps none. came_at: by S3's clock."""

    bucket: str
    key: str
    version: str | None
    came_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What was delivered at once. id: None for S3's own delivery, without a queue. receives: deliveries, with this one.
    fault: what in it cannot be understood; `notices` are those that can."""

    id: str | None = None
    receives: int = 1
    notices: tuple[Notice, ...] = ()
    fault: str | None = None


def read_messages(event: Any) -> list[Message]:
    """The messages of an event, those without a picture included. Raises BadRequest for an event of another kind."""
    records = event.get("Records") if isinstance(event, dict) else None
    if isinstance(records, list) and all(_is_of_sqs(record) for record in records):
        return [_from_sqs(record) for record in records]
    message = _understand(event)
    if message.fault:
        raise BadRequest(f"{_EVENT} {message.fault}")
    return [message]


def _is_of_sqs(record: Any) -> bool:
    return isinstance(record, dict) and record.get("eventSource") == "aws:sqs" and bool(record.get("messageId"))


def _from_sqs(record: dict[str, Any]) -> Message:
    receives = str((record.get("attributes") or {}).get("ApproximateReceiveCount", "1"))
    try:
        body = json.loads(record.get("body") or "")
    except (ValueError, TypeError, RecursionError):
        body = None
    message = _understand(body)
    return Message(id=str(record["messageId"]), receives=int(receives) if receives.isdecimal() else 1,
                   notices=message.notices, fault=message.fault)


def _understand(notification: Any) -> Message:
    """S3's test event and removals are understood, and hold no picture."""
    if not isinstance(notification, dict):
        return Message(fault="It is not a JSON object.")
    if notification.get("Event") == "s3:TestEvent":
        return Message()
    records = notification.get("Records")
    if not isinstance(records, list):
        return Message(fault="It has no list of Records.")
    notices, fault = [], None
    for record in records:
        try:
            notices += _notices(record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            fault = f"A record lacks what one of S3 has, or it is another service's ({type(error).__name__})."
    return Message(notices=tuple(notices), fault=fault)


def _notices(record: dict[str, Any]) -> list[Notice]:
    """None for a removal, and for the empty object that the console makes for a folder."""
    if record.get("eventSource", "aws:s3") != "aws:s3":
        raise ValueError("of another service")
    if not record["eventName"].removeprefix("s3:").startswith("ObjectCreated:"):
        return []
    bucket, stored = record["s3"]["bucket"]["name"], record["s3"]["object"]
    key, version = unquote_plus(stored["key"], errors="strict"), stored.get("versionId") or None
    if not all(name.encode() for name in (bucket, key, version or "null")):  # text, and not half a surrogate pair
        raise ValueError("without a name")
    return [] if key.endswith("/") else [Notice(bucket, key, version, _time(record.get("eventTime")))]


def _time(text: Any) -> datetime | None:
    """None for a moment that cannot be: events that are written by hand carry any."""
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if timedelta(0) <= datetime.now(UTC) - moment <= OLDEST else None
