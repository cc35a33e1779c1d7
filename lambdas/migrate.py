"""migrate: the database's schema and roles, brought up to date at deploy. A custom resource of CloudFormation, or by hand.

As a custom resource it is called when `migrations_hash` changes, answers every request, and leaves everything as it is at
Delete: results outlive the stack that wrote them. {"query": "select ..."} is an operator's question (questions.py). Any other
event migrates and returns what was done.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from time import sleep
from typing import Any

from lambdas.environment import read_settings
from lambdas.events import time_left_ms
from lambdas.metrics import write_line
from lambdas.questions import answer
from lambdas.storage import Storage, database_url
from shutterless.errors import ShutterlessError, Unavailable
from shutterless.migrations import HEAD, migrations_hash
from shutterless.settings import Settings

PHYSICAL_ID = "shutterless-schema"  # always the same: another one would make CloudFormation delete the first
RESERVE_S = 15.0  # of the invocation, kept for the answer
PAUSE_S = 3.0  # between attempts at a database that is starting
REPLY_S, REPLIES = 3.0, 3
MAX_REASON = 3000  # characters: CloudFormation takes an answer of 4,096 bytes
UNKNOWN = "The migration failed. The log of the function migrate says why."


def migrate(event: Any, context: Any, read: Callable[[], tuple[Settings, Storage]]) -> dict[str, Any]:
    """By hand: migrate, and return the schema's version, or answer a query. For CloudFormation: migrate, and answer on its
    ResponseURL.

    By hand, raises what went wrong; for CloudFormation, nothing: that is told there, settings that `read` cannot read
    included.
    """
    if isinstance(event, dict) and "query" in event:
        return answer(event, read()[0])
    if not (isinstance(event, dict) and "ResponseURL" in event and "RequestType" in event):
        return bring_up_to_date(*read(), lambda: time_left_ms(context) / 1000)
    done: dict[str, Any] = {}
    reason = None
    try:
        if event["RequestType"] != "Delete":
            done = bring_up_to_date(*read(), lambda: time_left_ms(context) / 1000)
    except Exception as error:  # whatever it is: without an answer, CloudFormation waits for an hour
        reason = str(error) if isinstance(error, ShutterlessError) else UNKNOWN
        _log(error)
    tell_cloudformation(event, done, reason)
    return done if reason is None else {"error": reason}


def bring_up_to_date(settings: Settings, storage: Storage, time_left_s: Callable[[], float]) -> dict[str, Any]:
    """Wait for the database, migrate, grant. Safe to call twice and at once. Raises Unavailable when it does not come up."""
    from shutterless.migrations.roles import RIGHTS
    from shutterless.results import migrate as migrate_schema

    grant = dict.fromkeys(RIGHTS, settings.role_password)
    while True:
        try:
            reach = storage.reach(answer_s=max(time_left_s() - RESERVE_S, 1.0))  # a step, or another deploy's, may be long
            migrate_schema(database_url(settings), reach=reach, grant=grant)
            return {"schema": HEAD, "migrations": migrations_hash(), "roles": sorted(RIGHTS)}
        except Unavailable as error:
            _log(error)
            if time_left_s() < RESERVE_S + PAUSE_S:
                raise Unavailable("The database does not answer. Look whether it is starting, and deploy again.") from error
            sleep(PAUSE_S)


def tell_cloudformation(event: dict[str, Any], data: dict[str, Any], reason: str | None) -> None:
    """PUT the answer; a few times, since without one CloudFormation waits for an hour. Raises nothing."""
    body = json.dumps({
        "Status": "SUCCESS" if reason is None else "FAILED", "Reason": (reason or "Done.")[:MAX_REASON],
        "PhysicalResourceId": event.get("PhysicalResourceId") or PHYSICAL_ID, "StackId": event.get("StackId"),
        "RequestId": event.get("RequestId"), "LogicalResourceId": event.get("LogicalResourceId"),
        "Data": {name: value for name, value in data.items() if isinstance(value, str)}}).encode()
    for attempt in range(REPLIES):
        try:
            status = _put(event["ResponseURL"], body)
        except (OSError, ValueError) as error:
            status = type(error).__name__
        if status == 200:
            return
        write_line({"level": "ERROR", "error": f"CloudFormation's address answers {status}."})
        sleep(attempt)


def _put(url: str, body: bytes) -> int | str:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    # An empty content type, since the address is signed without one. https or, of an emulator, http.
    request = Request(url, data=body, method="PUT", headers={"content-type": ""})  # noqa: S310
    if not url.startswith(("https://", "http://")):
        raise ValueError("not an address")
    try:
        with urlopen(request, timeout=REPLY_S) as answer:  # noqa: S310
            return int(answer.status)
    except HTTPError as error:
        return error.code


def _log(error: Exception) -> None:
    """Its cause as well, which may name hosts and users, and never holds a password."""
    write_line({"level": "ERROR", "error": str(error) if isinstance(error, ShutterlessError) else repr(error)[:2000],
                "cause": str(error.__cause__ or "").partition("\n")[0][:500]})


@cache
def _collaborators() -> tuple[Settings, Storage]:
    settings = read_settings(os.environ)
    return settings, Storage(settings, os.environ)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda's entry."""
    return migrate(event, context, _collaborators)
