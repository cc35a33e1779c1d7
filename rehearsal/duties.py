"""What whoever runs the stage does with it, by shutterless's own commands: dead letters, queries, logs, costs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rehearsal.account import Account
from rehearsal.client import JPEG, Client, tile
from rehearsal.letters import fast_retries, wait_for_dead_letters
from rehearsal.operator import Operator
from rehearsal.watched import Step, expect

LINE_S = 60.0  # until a line of a log is told
LOCKED_OUT = "shutterless_infer"


class Duties:
    """client: one with the key. account: the same system from the inside."""

    def __init__(self, client: Client, account: Account, operator: Operator) -> None:
        self.client, self.account, self.operator = client, account, operator
        self._late: list[str] = []  # ids of pictures that were answered after a redrive

    def all(self) -> Iterator[tuple[str, Callable[[Step], None]]]:
        """Name and function of each, in the order in which they build on each other."""
        yield "a poisoned message ends in the dead letters", self.poison
        yield "shutterless redrive: by reason; what failed while the database refused infer is sent back and done", self.redrive
        yield "shutterless logs: what happened to a picture, errors, and what comes", self.logs
        yield "shutterless psql: a question is answered, a change is refused", self.psql
        yield "shutterless cost: with all that it assumes", self.cost

    def poison(self, step: Step) -> None:
        with fast_retries(self.account):
            self.account.client("sqs").send_message(QueueUrl=self.account.queue, MessageBody="not a notice of S3's")
            wait_for_dead_letters(self.account, 1)

    def redrive(self, step: Step) -> None:
        """The role is locked out, as when a database is being restored; the poison is sent back as AWS's console does it."""
        with fast_retries(self.account), self._locked_out():
            self._late = [self.client.upload(tile(50 + number)) for number in range(2)]
            arn = self.account.queue_attributes(self.account.dead_letters)["QueueArn"]
            self.account.client("sqs").start_message_move_task(SourceArn=arn)
            wait_for_dead_letters(self.account, 3)
        statuses = {self.client.record(request_id)["status"] for request_id in self._late}
        expect(statuses <= {"pending", "stalled"}, f"expected no outcome before the redrive, got {statuses}")
        shown = self.operator.run("redrive").out
        expect("Nothing was sent" in shown, f"expected nothing to be sent without a yes, got {shown}")
        sent = self.operator.run("redrive", "--yes").out
        self._expect_groups(step, sent)
        for request_id in self._late:
            record = self.client.outcome(request_id)
            expect(record["status"] == "done", f"expected done after the redrive, got {record}")
        rows = self.account.rows("SELECT count(*) FROM results WHERE request_id::text = ANY(%s)", self._late)
        expect(rows == [(2,)], f"expected two rows, got {rows}")
        self._throw_away_poison(step)

    @contextmanager
    def _locked_out(self) -> Iterator[None]:
        with self.account.database() as connection:
            connection.execute(f"ALTER ROLE {LOCKED_OUT} NOLOGIN")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [LOCKED_OUT])
        try:
            yield
        finally:
            with self.account.database() as connection:
                connection.execute(f"ALTER ROLE {LOCKED_OUT} LOGIN")

    def _expect_groups(self, step: Step, told: str) -> None:
        """One that is sent back, with both pictures, and one that stays."""
        rows = [re.split(r"\s{2,}", line.strip()) for line in told.splitlines() if line.strip().startswith("classify ")]
        groups = {row[-1]: (row[1], row[2]) for row in rows}
        expect(groups.get("yes", ("", ""))[1] == "2" and groups.get("no, stays", ("", ""))[0].startswith("malformed"),
               f"expected two pictures that are sent back, and a malformed message that stays, got {told}")
        expect("classify: 2 sent back" in told, f"expected both to be taken by the queue, got {told}")
        step.notes.append(f"2 sent back: {groups['yes'][0]}")

    def _throw_away_poison(self, step: Step) -> None:
        """Read it by hand, and throw it away."""
        wait_for_dead_letters(self.account, 1)
        sqs, url = self.account.client("sqs"), self.account.dead_letters
        messages = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], WaitTimeSeconds=2).get("Messages", [])
        expect(len(messages) == 1, f"expected one dead letter that can be read, got {len(messages)}")
        sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])
        wait_for_dead_letters(self.account, 0)
        step.notes.append("the poison stayed, and is thrown away by hand")

    def logs(self, step: Step) -> None:
        told = self.operator.run("logs", "--since", "1h").out.splitlines()
        functions = {line.split()[2] for line in told if self._late[0] in line}
        expect({"upload", "infer"} <= functions, f"expected what upload and infer log of {self._late[0]}, got {functions}")
        errors = [line for line in told if " ERROR " in line]
        expect(bool(errors), "expected the errors of the database that refused infer, got none")
        only = self.operator.run("logs", "--since", "1h", "--function", "query").out.splitlines()
        expect({line.split()[2] for line in only if re.match(r"\d{4}-", line)} == {"query"}, "expected query's lines alone")
        come = self.operator.follow(self._ask_something, LINE_S)
        step.notes.append(f"{len(told)} lines, {len(errors)} errors; followed: {come.split()[2]}")

    def _ask_something(self) -> str:
        """Returns what the log will tell of it."""
        answer = self.client.ask("POST", "/predict", tile(60), expect=200, content_type=JPEG)
        return answer.headers["x-request-id"]

    def psql(self, step: Step) -> None:
        query = "select status, count(*)::int as n from results group by status order by status"
        told = [json.loads(line) for line in self.operator.run("psql", "--json", query).out.splitlines()]
        there = [{"status": status, "n": count} for status, count in self.account.rows(query)]
        expect(told == there and bool(there), f"expected {there}, got {told}")
        refused = self.operator.run("psql", "delete from results", expect_code=1).error
        expect("Traceback" not in refused and len(refused) > 20, f"expected a sentence, got {refused}")
        expect(self.account.rows(query) == [(row["status"], row["n"]) for row in there], "expected no row to be changed")
        step.notes.append(", ".join(f"{row['n']} {row['status']}" for row in there))

    def cost(self, step: Step) -> None:
        table, numbers = self.operator.run("cost").out, json.loads(self.operator.run("cost", "--json").out)
        expect(numbers["idle_usd"] > 0 and f"{numbers['idle_usd']:,.2f}" in table, f"expected {numbers['idle_usd']} in {table}")
        unsaid = [name for name in numbers["assumed"] if name not in table]
        expect("Assumed" in table and not unsaid, f"expected each assumption, not said: {', '.join(unsaid)}")
        step.notes.append(f"{numbers['idle_usd']:.2f} dollars a month idle, {len(numbers['assumed'])} assumptions")
