"""SQS: dead letters are sent back to the queue that they came from, as new messages.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_StartMessageMoveTask.html
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from ministack.services import sqs

TASKS: list[dict[str, Any]] = []  # newest first


def complete() -> None:
    """sqs:StartMessageMoveTask, sqs:ListMessageMoveTasks. Raises KeyError where the emulator knows them by now."""
    ours = {"StartMessageMoveTask": start_move, "ListMessageMoveTasks": list_moves}
    if known := ours.keys() & sqs._HANDLERS.keys():
        raise KeyError(f"{', '.join(known)}: the emulator knows it by now; take ours out.")
    sqs._HANDLERS.update(ours)


def start_move(request: dict[str, Any], url: str) -> dict[str, str]:
    """Move all at once. Refuses a queue that is not there."""
    dead = sqs._queue_by_arn(request["SourceArn"])
    if dead is None:
        raise sqs._Err("ResourceNotFoundException", "The resource that you specified for the SourceArn parameter does not exist.")
    moved = 0
    for message in dead["messages"]:
        source = request.get("DestinationArn") or message["sys"].pop("DeadLetterQueueSourceArn", "")
        queue = sqs._queue_by_arn(source)
        if queue is None:
            raise sqs._Err("ResourceNotFoundException", f"There is no queue {source} to move messages to.")
        queue["messages"].append({**message, "id": str(uuid.uuid4()), "receive_count": 0, "visible_at": time.time(),
                                  "receipt_handle": None, "first_receive_at": None})
        moved += 1
    dead["messages"].clear()
    TASKS.insert(0, {"SourceArn": request["SourceArn"], "Status": "COMPLETED", "ApproximateNumberOfMessagesMoved": moved,
                     "ApproximateNumberOfMessagesToMove": moved, "StartedTimestamp": int(1000 * time.time())})
    return {"TaskHandle": str(uuid.uuid4())}


def list_moves(request: dict[str, Any], url: str) -> dict[str, Any]:
    """What was moved from one queue."""
    return {"Results": [task for task in TASKS if task["SourceArn"] == request["SourceArn"]]}
