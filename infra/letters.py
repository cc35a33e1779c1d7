"""Dead letters of a stage: looked at, and sent back to their queue. None is deleted before the queue has it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from infra.deployed import Deployed, explained

HOLD_S = 600  # that nobody else sees what an operator is looking at
MOST = 10_000  # looked at in one go
PER_CALL = 10  # messages, by SQS's limit
BYTES_PER_CALL = 240_000  # SQS takes 256 KiB


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A message that was delivered in vain. sent_ms: since 1970, when it first came. receipt: with which it is deleted."""

    id: str
    body: str
    sent_ms: int
    receipt: str


def tasks_of(outputs: Mapping[str, str]) -> list[str]:
    """The tasks with a queue and dead letters, as the stacks tell them."""
    return sorted(name.removesuffix("DeadLettersUrl") for name in outputs
                  if name.endswith("DeadLettersUrl") and f"{name.removesuffix('DeadLettersUrl')}QueueUrl" in outputs)


class DeadLetters:
    """Those of one task, held while this is open; what is still there at its end can be seen by others again.

    letters: up to MOST. has_more: of them are there than that.
    """

    def __init__(self, deployed: Deployed, *, queue_url: str, dead_letters_url: str) -> None:
        self._sqs = deployed.client("sqs")
        self._queue_url, self._url = queue_url, dead_letters_url
        self._held: dict[str, Letter] = {}
        self.has_more = False

    @property
    def letters(self) -> list[Letter]:
        return list(self._held.values())

    def __enter__(self) -> DeadLetters:
        try:
            with explained():
                self._receive()
        except BaseException:  # raised again: what was taken from the queue goes back to it, whatever happened
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._release()

    def send_back(self, letters: Sequence[Letter]) -> tuple[int, dict[str, str]]:
        """Send each anew, which gives it all its deliveries again, then delete it here. Returns how many the queue took, and why
        it refused others: id -> reason. One whose deletion fails comes twice, which changes no result."""
        taken, refused = 0, dict[str, str]()
        with explained():
            for group in _groups(letters):
                answer = self._sqs.send_message_batch(QueueUrl=self._queue_url, Entries=[
                    {"Id": str(at), "MessageBody": letter.body} for at, letter in enumerate(group)])
                refused |= {group[int(each["Id"])].id: f"{each['Code']}: {each.get('Message', '')}"
                            for each in answer.get("Failed", [])}
                sent = [group[int(each["Id"])] for each in answer.get("Successful", [])]
                taken += len(sent)
                self._delete(sent)
        return taken, refused

    def _delete(self, letters: list[Letter]) -> None:
        if letters:
            self._sqs.delete_message_batch(QueueUrl=self._url, Entries=_entries(letters))
            for letter in letters:
                del self._held[letter.id]

    def _receive(self) -> None:
        """Until nothing comes: SQS asks a part of its machines each time, so that one empty answer tells little."""
        empty = 0
        while empty < 2:
            if len(self._held) >= MOST:
                self.has_more = True
                return
            answer = self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=PER_CALL, VisibilityTimeout=HOLD_S,
                                               WaitTimeSeconds=1, AttributeNames=["SentTimestamp"])
            come = answer.get("Messages", [])
            empty = 0 if come else empty + 1
            for each in come:
                self._held[each["MessageId"]] = Letter(id=each["MessageId"], body=each["Body"], receipt=each["ReceiptHandle"],
                                                       sent_ms=int(each.get("Attributes", {}).get("SentTimestamp", 0)))

    def _release(self) -> None:
        with explained():
            for group in _groups(self.letters):
                entries: list[dict[str, Any]] = [entry | {"VisibilityTimeout": 0} for entry in _entries(group)]
                self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _entries(letters: Sequence[Letter]) -> list[dict[str, Any]]:
    return [{"Id": str(at), "ReceiptHandle": letter.receipt} for at, letter in enumerate(letters)]


def _groups(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    """What SQS takes in one call."""
    group: list[Letter] = []
    size = 0
    for letter in letters:
        length = len(letter.body.encode())
        if group and (len(group) == PER_CALL or size + length > BYTES_PER_CALL):
            yield group
            group, size = [], 0
        group.append(letter)
        size += length
    if group:
        yield group
