"""{"query": "select ..."} -> a table: how an operator asks the database in its network, which no laptop reaches.

Only who may invoke the function can ask: no route of the API leads here. It logs in as a user that may read the table results and
nothing else; each question stands in its log.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lambdas.metrics import write_line
from lambdas.storage import Storage, database_url
from shutterless.errors import BadRequest, BadSettings, Unavailable
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.questions import Table

LIMIT_S = 20.0
LOGGED = 2_000  # characters of a question


def answer(event: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """{columns, rows, is_cut}, or {error}: a sentence. Raises nothing that a query can cause."""
    _log(event)  # before it is asked: an answer may take all memory
    try:
        table = _ask(event, settings)
    except (BadRequest, BadSettings, Unavailable) as error:
        _log(event, error=str(error), cause=str(error.__cause__ or "").partition("\n")[0][:500])
        return {"error": str(error)}
    _log(event, rows=len(table["rows"]))
    return dict(table)


def _ask(event: dict[str, Any], settings: Settings) -> Table:
    from shutterless.questions import ask

    query = event["query"]
    if set(event) != {"query"} or not isinstance(query, str):
        raise BadRequest('Expected {"query": "select ..."} and nothing beside it, got something else. Correct it.')
    url = database_url(settings)
    reader = replace(settings, database_url=as_reader(url))
    return ask(reader.database_url, query, reach=Storage(reader, os.environ).reach(answer_s=LIMIT_S), limit_s=LIMIT_S)


def as_reader(url: str) -> str:
    """The same database, as the user that only reads; with the address's password, where it has one."""
    from shutterless.migrations.roles import READER

    address = urlsplit(url)
    user, _, host = address.netloc.rpartition("@")
    _, colon, password = user.partition(":")
    return address._replace(scheme="postgresql", netloc=f"{READER}{colon}{password}@{host}").geturl()


def _log(event: dict[str, Any], **told: object) -> None:
    write_line({"level": "ERROR" if "error" in told else "INFO", "query": str(event["query"])[:LOGGED], **told})
