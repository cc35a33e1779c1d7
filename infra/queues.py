"""Per task: notification -> queue -> dead letters. Times follow from the function's timeout."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.stages import Stage

KEPT = Duration.days(14)  # the longest that SQS keeps a message


class TaskQueue(Construct):
    """task: as in keys, uploads/<task>/. queue: notices for infer. dead_letters: those that were delivered in vain."""

    def __init__(self, scope: Construct, construct_id: str, *, task: str, stage: Stage) -> None:
        super().__init__(scope, construct_id)
        self.task = task
        self.dead_letters = sqs.Queue(self, "DeadLetters", retention_period=KEPT, enforce_ssl=True,
                                      encryption=sqs.QueueEncryption.SQS_MANAGED)
        self.queue = sqs.Queue(self, "Queue", visibility_timeout=Duration.seconds(stage.visibility_s), enforce_ssl=True,
                               retention_period=Duration.days(4), encryption=sqs.QueueEncryption.SQS_MANAGED,
                               dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters,
                                                                     max_receive_count=stage.max_receives))
