"""Look at a deployed stage's dead letters, by reason, and send them back to work.

A dead letter names pictures that could not be answered in several deliveries, for reasons that are not theirs. Mend the reason
first. Sent back, each has all its deliveries again, and its stalled result moves on; what was answered meanwhile stays as it is.
What nobody understands is not sent, and nothing is deleted that the queue has not taken.

examples:
  shutterless redrive dev
  shutterless redrive prod --yes
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.tables import print_table

if TYPE_CHECKING:
    from infra.deployed import Deployed
    from infra.letters import DeadLetters, Letter
    from infra.tail import Line

SAMPLES = 3
UNKNOWN = "no error of its own is logged (any more)"
ERRORS = '{ $.level = "ERROR" }'  # CloudWatch's filter for lines of JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which stage, and whether to ask first."""
    parser.add_argument("stage", metavar="STAGE", help="a stage of infra/stages.py, such as dev")
    parser.add_argument("--yes", action="store_true", help="send them back without asking")


@dataclass(kw_only=True)
class Group:
    """Dead letters of one task with one reason. names: keys of pictures, or the beginning of what is no notice."""

    letters: list[Letter] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    can_be_sent: bool = True


def run(arguments: argparse.Namespace) -> int:
    """Show them, ask, send."""
    from infra.deployed import Deployed
    from infra.letters import DeadLetters, tasks_of
    from infra.stages import stage_named

    deployed = Deployed(stage_named(arguments.stage).name)
    outputs = deployed.outputs()
    with ExitStack() as held:
        boxes = {task: held.enter_context(DeadLetters(deployed, queue_url=outputs[f"{task}QueueUrl"],
                                                      dead_letters_url=outputs[f"{task}DeadLettersUrl"]))
                 for task in tasks_of(outputs)}
        if not any(box.letters for box in boxes.values()):
            print("There are no dead letters.")
            return 0
        return redrive(deployed, outputs, boxes, arguments.yes)


def redrive(deployed: Deployed, outputs: Mapping[str, str], boxes: Mapping[str, DeadLetters], is_sure: bool) -> int:
    """Of all tasks. 1 where something was refused."""
    reasons = logged_reasons(deployed, outputs, min(letter.sent_ms for box in boxes.values() for letter in box.letters))
    groups = {task: by_reason(box.letters, reasons) for task, box in boxes.items()}
    show(groups)
    chosen = {task: [letter for group in each.values() if group.can_be_sent for letter in group.letters]
              for task, each in groups.items()}
    count = sum(map(len, chosen.values()))
    if not count:
        print("None of them can be answered by another delivery. They stay until SQS drops them, 14 days after they came.")
        return 0
    if not is_sure and not agrees(f"Send {count:,} back? [y/N] "):
        print("Nothing was sent, and all of them stay.")
        return 0
    return send(boxes, chosen)


def send(boxes: Mapping[str, DeadLetters], chosen: Mapping[str, list[Letter]]) -> int:
    """Tell what the queues took, and what not."""
    failed = 0
    for task, letters in chosen.items():
        taken, refused = boxes[task].send_back(letters)
        print(f"{task.lower()}: {taken:,} sent back" + (f", {len(refused):,} refused, which stay" if refused else ""))
        for reason in sorted(set(refused.values())):
            print(f"shutterless: the queue refuses: {reason}", file=sys.stderr)
        failed += len(refused)
        if boxes[task].has_more:
            print(f"{task.lower()}: there are more than were looked at. Run the same again.")
    return 1 if failed else 0


def agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to say yes
        print()
        return False


def by_reason(letters: Iterable[Letter], reasons: Reasons) -> dict[str, Group]:
    """Reason -> its letters."""
    from lambdas.notices import read_messages
    from shutterless.uploads import request_id_of

    groups: dict[str, Group] = defaultdict(Group)
    for letter in letters:
        message, = read_messages({"Records": [{"eventSource": "aws:sqs", "messageId": letter.id, "body": letter.body}]})
        ids = [request_id_of(notice.bucket, notice.key, notice.version)[0] for notice in message.notices]
        group = groups[f"malformed: {message.fault}" if message.fault else reasons.of(ids, letter.sent_ms)]
        group.can_be_sent = not message.fault
        group.letters.append(letter)
        group.names += [notice.key for notice in message.notices] or [letter.body[:60]]
    return dict(groups)


@dataclass(kw_only=True)
class Reasons:
    """What infer logged: the last error of each request_id, and those of whole batches with their times."""

    own: dict[str, str] = field(default_factory=dict)
    shared: list[tuple[int, str]] = field(default_factory=list)

    def of(self, request_ids: list[str], sent_ms: int) -> str:
        """A picture's own error; else the last one that met whole batches since it came, such as a database that is away."""
        own = next((self.own[each] for each in request_ids if each in self.own), None)
        return own or next((text for at_ms, text in reversed(self.shared) if at_ms >= sent_ms), UNKNOWN)


def logged_reasons(deployed: Deployed, outputs: Mapping[str, str], from_ms: int) -> Reasons:
    """From infer's log, as far as it is kept."""
    from infra.tail import Logs, log_groups

    reasons, groups = Reasons(), log_groups(outputs)
    if "infer" in groups:
        for line in Logs(deployed, {"infer": groups["infer"]}).since(from_ms, pattern=ERRORS):
            note(reasons, line)
    return reasons


def note(reasons: Reasons, line: Line) -> None:
    """One line of infer's log. What is no error of a picture or of a batch is left alone."""
    try:
        entry = json.loads(line.text)
    except ValueError:
        return
    if not isinstance(entry, dict) or entry.get("level") != "ERROR" or "message_id" in entry:
        return
    text = " ".join(str(entry.get("error", "")).split())[:200]
    if request_id := entry.get("request_id"):
        reasons.own[str(request_id)] = text
    elif text:
        reasons.shared.append((line.at_ms, text))


def show(groups: Mapping[str, Mapping[str, Group]]) -> None:
    """The most frequent first."""
    now_ms, rows = 1000 * time.time(), []
    for task, by in groups.items():
        for reason, group in sorted(by.items(), key=lambda each: -len(each[1].letters)):
            names = list(dict.fromkeys(group.names))
            more = f" and {len(names) - SAMPLES:,} more" if len(names) > SAMPLES else ""
            rows.append((task.lower(), reason, f"{len(group.letters):,}",
                         age((now_ms - min(letter.sent_ms for letter in group.letters)) / 1000),
                         ", ".join(names[:SAMPLES]) + more, "yes" if group.can_be_sent else "no, stays"))
    print_table(("task", "reason", "n", "oldest", "pictures", "is sent back"), rows)


def age(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
