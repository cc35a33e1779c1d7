"""A queue that behaves as badly as SQS may, and what S3 and SQS write into it.

It delivers in any order, more than once, and again whatever was not acknowledged; after `max_receives` deliveries a message
is a dead letter. Who handles its batches is up to the caller: a handler in this process, or a container.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

Event = dict[str, Any]
BATCH = 10
DUPLICATE, OLD_DUPLICATE = 0.1, 0.05  # how often a message is delivered twice at once, and again after it was acknowledged


def s3_record(bucket: str, key: str, version: str | None = None, name: str = "ObjectCreated:Put") -> Event:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html"""
    stored = {"key": quote_plus(key, safe="/"), "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e",
              "sequencer": "0A1B2C3D4E5F678901"} | ({"versionId": version} if version else {})
    return {"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventName": name,
            "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "userIdentity": {"principalId": "EXAMPLE"}, "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "EXAMPLE123456789"},
            "s3": {"s3SchemaVersion": "1.0", "configurationId": "uploads",
                   "bucket": {"name": bucket, "ownerIdentity": {"principalId": "EXAMPLE"}, "arn": f"arn:aws:s3:::{bucket}"},
                   "object": stored}}


def s3_event(*records: Event) -> Event:
    return {"Records": list(records)}


def test_event(bucket: str) -> Event:
    """What S3 sends when a notification is set up."""
    return {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-22T00:00:00.000Z", "Bucket": bucket,
            "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE"}


def sqs_event(*bodies: Event | str, receives: int = 1) -> Event:
    """A batch as the event source mapping hands it over; the message's ids are m0, m1, ..."""
    messages = [Message(body if isinstance(body, str) else json.dumps(body), id=f"m{n}", receives=receives)
                for n, body in enumerate(bodies)]
    return {"Records": [message.record() for message in messages]}


@dataclass(eq=False)
class Message:
    body: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receives: int = 0

    def record(self) -> Event:
        return {"messageId": self.id, "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a", "body": self.body,
                "attributes": {"ApproximateReceiveCount": str(self.receives), "SentTimestamp": "1763769600000",
                               "SenderId": "EXAMPLE", "ApproximateFirstReceiveTimestamp": "1763769600001"},
                "messageAttributes": {}, "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3", "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:uploads", "awsRegion": "us-east-1"}


class Queue:
    """invoke: takes an event and returns the handler's reply, or raises when the handler did, or died."""

    def __init__(self, seed: int, *, max_receives: int = 5) -> None:
        self.random = random.Random(seed)
        self.max_receives = max_receives
        self.waiting: list[Message] = []
        self.dead: list[Message] = []
        self.batches = self.crashes = self.redelivered = 0

    def send(self, body: Event | str) -> None:
        self.waiting.append(Message(body if isinstance(body, str) else json.dumps(body)))

    def drive(self, invoke: Callable[[Event], Any], *, most_batches: int = 10_000) -> None:
        """Deliver until nothing waits."""
        while self.waiting:
            assert self.batches < most_batches, "the queue does not drain"
            self.deliver(invoke)

    def redrive(self) -> None:
        """Put the dead letters back, as new."""
        for message in self.dead:
            message.receives = 0
        self.waiting += self.dead
        self.dead = []

    def deliver(self, invoke: Callable[[Event], Any]) -> None:
        """One batch."""
        self.random.shuffle(self.waiting)
        batch = [self.waiting.pop() for _ in range(min(self.random.randint(1, BATCH), len(self.waiting)))]
        for message in batch:
            message.receives += 1
        for message in batch:
            if self.random.random() < DUPLICATE:  # another container has it at the same time, or will
                self.waiting.append(Message(message.body, id=message.id, receives=message.receives))
                self.redelivered += 1
        self.batches += 1
        try:
            reply = invoke({"Records": [message.record() for message in batch]})
            failed = {failure["itemIdentifier"] for failure in (reply or {}).get("batchItemFailures", [])}
        except Exception:  # a crash, as SQS sees it: the whole batch comes again, and a lasting one ends in `dead`
            self.crashes += 1
            failed = {message.id for message in batch}
        for message in batch:
            if message.id in failed:
                (self.waiting if message.receives < self.max_receives else self.dead).append(message)
            elif self.random.random() < OLD_DUPLICATE:
                self.waiting.append(Message(message.body, id=message.id, receives=message.receives))
                self.redelivered += 1
