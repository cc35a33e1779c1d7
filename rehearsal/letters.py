"""The stage's queue and its dead letters, as who rehearses hurries and watches them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rehearsal.account import Account
from rehearsal.watched import CheckFailed

WAIT_S, PAUSE_S = 120.0, 0.3


@contextmanager
def fast_retries(account: Account) -> Iterator[None]:
    """SQS delivers again after a second instead of six minutes, so that dead letters can be waited for."""
    sqs, queue = account.client("sqs"), account.queue
    before = account.queue_attributes(queue)["VisibilityTimeout"]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "1"})
    try:
        yield
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": before})


def wait_for_dead_letters(account: Account, count: int) -> None:
    """Raises CheckFailed where there are not so many in time, or more."""
    deadline = time.monotonic() + WAIT_S
    while (found := account.waiting(account.dead_letters)) != count:
        if time.monotonic() > deadline:
            raise CheckFailed(f"expected {count} dead letters within {WAIT_S:.0f} s, got {found}, and "
                              f"{account.waiting(account.queue)} messages in the queue")
        time.sleep(PAUSE_S)


def wait_until_drained(account: Account) -> None:
    """Raises CheckFailed where messages stay in the queue."""
    deadline = time.monotonic() + WAIT_S
    while waiting := account.waiting(account.queue):
        if time.monotonic() > deadline:
            raise CheckFailed(f"expected an empty queue within {WAIT_S:.0f} s, got {waiting} messages")
        time.sleep(PAUSE_S)
