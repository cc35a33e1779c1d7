"""A query of an operator's: it reads, and nothing else, for a bounded time and a bounded answer. PostgreSQL only.

Four walls stand around it: its role may SELECT from `results` alone, its transaction only reads, the protocol takes one statement
at a time, and the server ends it after `limit_s`. The connection is its own, and is closed behind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict
from urllib.parse import urlsplit

import psycopg
from psycopg.adapt import Loader, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn, PGresult

from shutterless.errors import BadRequest, BadSettings, Unavailable
from shutterless.results import Reach

MAX_ROWS = 10_000
MAX_BYTES = 5_000_000  # of the rows as JSON: a function's answer may have 6 MB on AWS
MAX_VALUE = 10_000  # characters of one value
MAX_QUERY = 20_000  # characters
LOCK_S, CONNECT_S = 3.0, 5
_NO_MORE = "57014"  # https://www.postgresql.org/docs/current/errcodes-appendix.html: query_canceled
_NOT_ALLOWED = {"25006", "42501"}  # read_only_sql_transaction, insufficient_privilege
_TEMPORARY = {"08", "40", "53", "55", "57", "58"}
# Their text is what psql shows; Python's own types know neither infinity nor the year 10000.
_AS_TEXT = ("date", "time", "timetz", "timestamp", "timestamptz", "interval", "numeric", "uuid", "bytea", "inet", "cidr")


class Table(TypedDict):
    """An answer. rows: values of JSON in the order of `columns`, whose names differ. is_cut: there was more than fits."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool


class _Text(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "replace")


def ask(url: str, query: str, *, reach: Reach, limit_s: float) -> Table:
    """Run one statement at `postgresql://...`, in a transaction that only reads.

    Raises BadRequest for a query that is wrong, not allowed or too slow, with PostgreSQL's own words: it is for who wrote it;
    Unavailable when the database cannot be reached.
    """
    text = query.encode(errors="replace")
    if not query.strip() or len(query) > MAX_QUERY or b"\0" in text:
        raise BadRequest(f"query: expected one statement of SQL, up to {MAX_QUERY:,} characters, got {len(query):,}. Correct it.")
    with _explained(limit_s), _connected(url, reach, limit_s) as connection:
        for name in _AS_TEXT:
            connection.adapters.register_loader(name, _Text)
        return _table(connection, text)


def _table(connection: psycopg.Connection[Any], query: bytes) -> Table:
    """Rows as the server sends them, so that no more are in memory than are kept."""
    rows: list[list[Any]] = []
    size, columns = 0, list[str]()
    loaders = Transformer(connection)
    for result in _results(connection.pgconn, query):
        loaders.set_pgresult(result)
        columns = [(result.fname(at) or b"").decode() for at in range(result.nfields)]
        for at in range(result.ntuples):
            row = [_plain(value) for value in loaders.load_row(at, list) or []]
            size += len(json.dumps(row)) + 2
            if len(rows) == MAX_ROWS or size > MAX_BYTES:
                return Table(columns=_distinct(columns), rows=rows, is_cut=True)
            rows.append(row)
    return Table(columns=_distinct(columns), rows=rows, is_cut=False)


def _results(link: PGconn, query: bytes) -> Iterator[PGresult]:
    """Of one row each, and at the end of none. The extended protocol refuses a second statement."""
    link.send_query_params(query, None)
    link.set_single_row_mode()
    while result := link.get_result():
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
        if result.status not in (ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_OK):
            raise BadRequest("Expected a query with an answer, such as SELECT, got a statement without one. Nothing was changed.")
        yield result


def _plain(value: Any) -> Any:
    """What JSON can say, and no longer than MAX_VALUE."""
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (dict, list)) and len(str(value)) <= MAX_VALUE:
        return _finite(value)
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else _plain(value)


def _distinct(names: list[str]) -> list[str]:
    """count, count -> count, count_2: in an object of JSON, one would hide the other."""
    chosen: list[str] = []
    for name in names:
        numbered, n = name, 1
        while numbered in chosen:
            n += 1
            numbered = f"{name}_{n}"
        chosen.append(numbered)
    return chosen


@contextmanager
def _connected(url: str, reach: Reach, limit_s: float) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A transaction that only reads. It is never committed."""
    named: dict[str, Any] = {"password": reach.password()} if reach.password else {}
    if reach.ca is not None:
        named |= {"sslmode": "verify-full", "sslrootcert": str(reach.ca)}
    named["user"] = urlsplit(url).username  # whatever else the address says
    try:
        connection = psycopg.connect(url, connect_timeout=CONNECT_S, autocommit=True, tcp_user_timeout=20_000, **named)
    except psycopg.ProgrammingError:  # its text would show the password
        raise BadSettings("DATABASE_URL: expected an address that PostgreSQL's own library can read, got another. Write special "
                          "characters of the password as %25, %40, ...") from None
    try:
        connection.execute(f"SET statement_timeout = {round(1000 * limit_s)}".encode())
        connection.execute(f"SET lock_timeout = {round(1000 * LOCK_S)}".encode())
        connection.execute(f"SET idle_in_transaction_session_timeout = {round(1000 * limit_s)}".encode())
        connection.execute("SET client_encoding = 'UTF8'")
        connection.execute("BEGIN READ ONLY")
        connection.execute("SELECT 1")  # after a first query, a transaction that reads cannot be told to write
        yield connection
    finally:
        connection.close()


@contextmanager
def _explained(limit_s: float) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        said = (error.diag.message_primary or str(error).partition("\n")[0])[:500]
        if state == _NO_MORE:
            raise BadRequest(f"The query takes longer than {limit_s:g} s and was ended. Ask for less, or for a shorter time "
                             "(where created_at > now() - interval '1 day').") from error
        if state in _NOT_ALLOWED:
            raise BadRequest(f"Expected a query that reads the table results, got another: {said}. This way nothing can be "
                             "changed, and nothing else be read.") from error
        if state[:2] in _TEMPORARY or (not state and isinstance(error, psycopg.OperationalError)):
            raise Unavailable("The database does not answer. Try again in a moment.") from error
        raise BadRequest(f"PostgreSQL refuses the query: {said}.{_place(error)} Correct it.") from error


def _place(error: psycopg.Error) -> str:
    position = error.diag.statement_position
    return f" At character {position}." if position else ""
