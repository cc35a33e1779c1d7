"""What became of every picture: one table, `results`, on SQLite or PostgreSQL.

A state only ever moves forward (but where an operator revives what was given up), each time by ONE statement in autocommit,
which the state itself guards; so it does not matter how many processes try, how often, or in what order:

    add_pending -> pending -- finish, expire -> done | failed     terminal: a later finish is counted, nothing else
                      | ^ stall, revive          |        |
                      v |                        |        |
                    stalled ------ finish -------+        +-- add_settled: come and answered in one step

Durability: when a call returns, its change is on the disk. A killed process (kill -9) loses nothing that was answered
because the operating system has the write-ahead log; a power loss neither, because every commit waits for fsync
(SQLite: synchronous=FULL, and on macOS fullfsync, which also empties the drive's cache; PostgreSQL: its defaults).
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from shutterless.errors import BadRequest, BadSettings, Unavailable
from shutterless.migrations import HEAD
from shutterless.statuses import STATUSES

PERCENTILES = (50, 95, 99)
CONFUSION_PAIRS = 1_000  # clients name true labels: nothing else bounds how many there are
LATENCY_BUCKETS = 60  # stats() looks back this many buckets
_BIGGEST_ID = 2**63 - 1
_BUSY_S = 10  # how long SQLite waits for another writer
# https://www.sqlite.org/rescode.html: BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN
_SQLITE_TEMPORARY = {5, 6, 8, 10, 13, 14}
# https://www.postgresql.org/docs/current/errcodes-appendix.html, classes: connection, read-only transaction, rollback
# (deadlock), insufficient resources, object in use or lock not available, operator intervention, system error
_POSTGRES_TEMPORARY = {"08", "25", "40", "53", "55", "57", "58"}


class Model(TypedDict):
    """The model that answered, as it stands beside every prediction."""

    name: str
    version: str
    sha256: str


class ErrorNote(TypedDict):
    """Why there is no prediction: a short name and a sentence, both written for the client."""

    title: str
    detail: str


class UtcTime(TypeDecorator[datetime]):
    """A moment with a time zone, in and out, on both databases; SQLite stores UTC text that sorts by time."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("expected a datetime with a time zone, got a naive one; use datetime.now(UTC)")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value and (value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC))


class AnyText(TypeDecorator[str]):
    """Text as it comes from outside: NUL (which PostgreSQL refuses) and lone surrogates are replaced."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value and value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


metadata = sa.MetaData()
results = sa.Table(
    "results", metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("request_id", AnyText, nullable=False),
    sa.Column("task", AnyText, nullable=False),
    sa.Column("status", AnyText, nullable=False),
    sa.Column("image_name", AnyText),
    sa.Column("object_key", AnyText),
    sa.Column("object_version", AnyText),
    sa.Column("content_type", AnyText),
    sa.Column("predicted_label", AnyText),
    sa.Column("pred_index", sa.Integer),
    sa.Column("confidence", sa.Double),
    sa.Column("top", sa.JSON(none_as_null=True)),
    sa.Column("caption", AnyText),
    sa.Column("in_distribution", sa.Boolean),
    sa.Column("true_label", AnyText),
    sa.Column("asked_model", AnyText),
    sa.Column("model_name", AnyText),
    sa.Column("model_version", AnyText),
    sa.Column("model_sha256", AnyText),
    sa.Column("inference_ms", sa.Double),
    sa.Column("latency_ms", sa.Double),
    sa.Column("queue_ms", sa.Double),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("claimed_until", UtcTime),
    sa.UniqueConstraint("request_id", name="results_request_id_key"),
    sa.CheckConstraint(f"status IN {STATUSES}", name="results_status_check"),
    sa.Index("results_status_id", "status", "id"),  # pages by status, and the oldest pending
    sa.Index("results_predicted_label_id", "predicted_label", "id"),  # pages by label, label distribution
    sa.Index("results_created_at", "created_at", "latency_ms"),  # pages by time, latency percentiles
    sa.Index("results_labels", "true_label", "predicted_label"),  # accuracy
    sqlite_autoincrement=True,  # an id is never used twice, so a cursor never means another row
)

# Announced and not yet come: nobody has claimed it, and until it comes, nobody can.
_EXPECTED = sa.and_(results.c.status == "pending", results.c.attempts == 0, results.c.claimed_until.is_not(None))


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What is known of a picture when it comes. asked_model: "name/version", None is the server's default.
    created_at: None is now."""

    task: str = "classify"
    image_name: str | None = None
    object_key: str | None = None
    object_version: str | None = None
    content_type: str | None = None
    true_label: str | None = None
    asked_model: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a picture came to: failed when there is an error, else done. confidence: 0..1.

    latency_ms is from arrival to this outcome, queue_ms the part of it before work began, inference_ms the model alone.
    """

    predicted_label: str | None = None
    pred_index: int | None = None
    confidence: float | None = None
    top: list[dict[str, Any]] | None = None
    caption: str | None = None
    in_distribution: bool | None = None
    model: Model | None = None
    inference_ms: float | None = None
    latency_ms: float | None = None
    queue_ms: float | None = None
    error: ErrorNote | None = None

    @property
    def status(self) -> str:
        return "failed" if self.error else "done"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row. Times are UTC; duplicates: finishes that came too late; attempts: claims, or begun attempts, so far."""

    id: int
    request_id: str
    task: str
    status: str
    image_name: str | None
    object_key: str | None
    object_version: str | None
    content_type: str | None
    predicted_label: str | None
    pred_index: int | None
    confidence: float | None
    top: list[dict[str, Any]] | None
    caption: str | None
    in_distribution: bool | None
    true_label: str | None
    asked_model: str | None
    model: Model | None
    inference_ms: float | None
    latency_ms: float | None
    queue_ms: float | None
    created_at: datetime
    finished_at: datetime | None
    error: ErrorNote | None
    duplicates: int
    attempts: int
    claimed_until: datetime | None

    @property
    def is_expected(self) -> bool:
        """Announced, and not yet come."""
        return self.status == "pending" and self.attempts == 0 and self.claimed_until is not None

    def to_json_dict(self) -> dict[str, Any]:
        """The record that clients see: no storage address, no bookkeeping; times as ISO 8601 with Z."""
        shown = {name: getattr(self, name) for name in RECORD_FIELDS}
        return {name: _iso(value) if isinstance(value, datetime) else value for name, value in shown.items()}


RECORD_FIELDS = ("id", "request_id", "task", "status", "image_name", "predicted_label", "confidence", "top", "caption",
                 "in_distribution", "true_label", "model", "inference_ms", "latency_ms", "queue_ms", "created_at",
                 "finished_at", "error")
READ = ("object_key", "object_version", "content_type")  # what a finish may know better than the door that took it
_PLAIN_FIELDS = tuple(field.name for field in fields(Record) if field.name != "model")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Records, newest first; next_cursor asks for the older ones and is None on the last page."""

    records: list[Record]
    next_cursor: str | None


@dataclass(frozen=True, kw_only=True)
class Backlog:
    """How many uploads have no outcome, and when the oldest pending one came."""

    pending: int
    stalled: int
    oldest_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How PostgreSQL is reached, beside its address. The defaults are those of a server with many threads.

    connections: at the same time. answer_s: what takes longer has failed, whether the server works on it or is gone.
    idle_s: after that, the server ends a connection that nobody uses. password: asked before each connection, for one that
    expires. ca: file of the certificates that vouch for the server; with it, TLS and the server's name are checked.
    """

    connections: int = 15
    answer_s: float | None = None
    idle_s: float | None = None
    password: Callable[[], str] | None = None
    ca: Path | None = None


def _now() -> datetime:
    return datetime.now(UTC)


class Results:
    """The table behind all doors. One object serves all threads of a process.

    Every method raises Unavailable when the database cannot be reached, is locked for too long or its disk is full.
    """

    def __init__(self, engine: sa.Engine, *, now: Callable[[], datetime], answer_s: float | None = None) -> None:
        self._engine = engine
        self._now = now
        self._insert = _insert_for(engine.dialect.name)
        self._patience = _Patience(engine, answer_s) if answer_s else None

    def close(self) -> None:
        """Close idle connections."""
        self._engine.dispose()

    def ping(self) -> None:
        """Return if the table can be read."""
        self._run(sa.select(results.c.id).limit(1))

    def add_pending(self, request_id: str, arrival: Arrival, *, expected_s: float | None = None) -> bool:
        """Record that a picture came, or that it is expected within `expected_s` seconds: nobody can claim it before it
        arrives. False: this request_id is known already, and nothing has changed."""
        due = self._now() + timedelta(seconds=expected_s) if expected_s is not None else None
        row = self._arrived(request_id, arrival) | {"status": "pending", "claimed_until": due}
        statement = self._insert(results).values(row).on_conflict_do_nothing(index_elements=["request_id"])
        return bool(self._run(statement.returning(results.c.id)))

    def arrive(self, request_id: str, *, version: str | None = None, image_name: str | None = None) -> bool:
        """Record that the picture that was expected has come, so that it can be claimed. False: it came before, or nobody
        waits for it any longer; nothing has changed. version: of the stored object."""
        known = sa.and_(results.c.request_id == request_id, _EXPECTED)
        named = {name: value for name, value in (("object_version", version), ("image_name", image_name)) if value is not None}
        return bool(self._run(sa.update(results).where(known).values(named | {"claimed_until": None}).returning(results.c.id)))

    def late(self, limit: int, again_s: float) -> list[Record]:
        """Up to `limit` pictures, oldest first, that were expected by now; each is named again after `again_s` seconds at the
        earliest, to whoever asks."""
        return self._held(sa.and_(_EXPECTED, results.c.claimed_until < self._now()), limit, again_s, {})

    def claim(self, limit: int, lease_s: float) -> list[Record]:
        """Take up to `limit` pending pictures that have come, oldest first, for `lease_s` seconds; then others may take them
        again.

        No two callers ever hold the same one. Each claim counts in `attempts`, so that the caller can give up.
        """
        over = sa.and_(results.c.attempts > 0, results.c.claimed_until < self._now())
        free = sa.and_(results.c.status == "pending", sa.or_(results.c.claimed_until.is_(None), over))
        return self._held(free, limit, lease_s, {"attempts": results.c.attempts + 1})

    def defer(self, request_id: str, pause_s: float) -> None:
        """Let a pending picture that is held be due, or late, in `pause_s` seconds."""
        held = sa.and_(results.c.request_id == request_id, results.c.status == "pending", results.c.claimed_until.is_not(None))
        until = self._now() + timedelta(seconds=pause_s)
        self._run(sa.update(results).where(held).values(claimed_until=until).returning(results.c.id))

    def release_claims(self) -> int:
        """End all leases; returns how many. For the start of the only server on this database: a claim that a killed
        process left behind need not be waited for."""
        held = sa.and_(results.c.status == "pending", results.c.attempts > 0, results.c.claimed_until.is_not(None))
        return len(self._run(sa.update(results).where(held).values(claimed_until=None).returning(results.c.id)))

    def add_settled(self, request_id: str, arrival: Arrival, outcome: Outcome) -> int:
        """Record a picture together with what it came to; returns the row's id. The request_id is a new one."""
        row = self._arrived(request_id, arrival) | _settled(outcome) | {"finished_at": self._now()}
        return int(self._run(self._insert(results).values(row).returning(results.c.id))[0].id)

    def finish(self, request_id: str, outcome: Outcome, *, arrival: Arrival | None = None, make: bool = True) -> bool:
        """Save the outcome, once: pending or stalled becomes done or failed.

        False: it was finished before, which stays as it is (this attempt is counted in `duplicates`), or there is no such
        row, because it was deleted. With `arrival`, what was read is recorded, too: its key, version and content type;
        and the row is made where it is missing, unless `make` is False, for one that was there when the work began.
        """
        settled = _settled(outcome) | {"finished_at": self._now()}
        if self._settle(request_id, settled, arrival, make=make, before=("pending", "stalled")):
            return True
        self.count_duplicate(request_id)
        return False

    def stall(self, request_id: str, error: ErrorNote, *, arrival: Arrival | None = None, make: bool = True) -> bool:
        """Mark a pending picture as given up for now: it lies in the dead letters, where a redrive can fetch it."""
        return self._settle(request_id, {"status": "stalled", "error": error}, arrival, make=make, before=("pending",))

    def stalled(self) -> list[tuple[str, datetime]]:
        """The request_id of all that was given up, and when it came: oldest first."""
        given_up = sa.select(results.c.request_id, results.c.created_at).where(results.c.status == "stalled")
        return [(request_id, came) for request_id, came in self._run(given_up.order_by(results.c.id))]

    def revive(self, request_id: str) -> bool:
        """Let a stalled picture be claimed again, with all its attempts before it. False: it is not stalled (any more)."""
        known = sa.and_(results.c.request_id == request_id, results.c.status == "stalled")
        anew = {"status": "pending", "error": None, "attempts": 0, "claimed_until": None}
        return bool(self._run(sa.update(results).where(known).values(anew).returning(results.c.id)))

    def expire(self, request_id: str, error: ErrorNote) -> bool:
        """Record that a pending picture never came. It touches no column that an answer is in, and needs no right to."""
        return self._settle(request_id, self._given_up(error), None, before=("pending",))

    def expire_expected(self, request_ids: Sequence[str], error: ErrorNote) -> int:
        """The same of pictures that are still expected: one that came, or is being worked on, keeps its row. Returns how many
        did not."""
        known = sa.and_(results.c.request_id.in_(request_ids), _EXPECTED)
        values = self._given_up(error) | {"claimed_until": None}
        return len(self._run(sa.update(results).where(known).values(values).returning(results.c.id)))

    def _given_up(self, error: ErrorNote) -> dict[str, Any]:
        return {"status": "failed", "error": error, "finished_at": self._now()}

    def count_duplicate(self, request_id: str) -> None:
        """Count one more arrival of a picture that is known; nothing else changes."""
        self._run(sa.update(results).where(results.c.request_id == request_id)
                  .values(duplicates=results.c.duplicates + 1).returning(results.c.id))

    def count_attempt(self, request_id: str) -> None:
        """Count that work on it begins; whoever dies of it leaves that behind."""
        self._run(sa.update(results).where(results.c.request_id == request_id)
                  .values(attempts=results.c.attempts + 1).returning(results.c.id))

    def get(self, request_id: str) -> Record | None:
        """The record of this request_id, or None."""
        return self.get_all([request_id]).get(request_id)

    def get_numbered(self, row_id: int) -> Record | None:
        """The record of this id, or None."""
        return next(iter(self._records(sa.select(results).where(results.c.id == row_id))), None)

    def get_all(self, request_ids: Sequence[str]) -> dict[str, Record]:
        """The records of those request_ids that are known."""
        found = self._records(sa.select(results).where(results.c.request_id.in_(request_ids)))
        return {record.request_id: record for record in found}

    def delete(self, request_id: str) -> Record | None:
        """Forget the row; returns what it was (its object is the caller's to delete), or None."""
        statement = sa.delete(results).where(results.c.request_id == request_id).returning(results)
        return next(iter(self._records(statement)), None)

    def page(self, *, limit: int = 20, cursor: str | None = None, label: str | None = None, status: str | None = None,
             from_: datetime | None = None, to: datetime | None = None) -> Page:
        """One page, newest first: `limit` 1..100 records, of a predicted label, of a status, created in [from_, to).

        A walk by cursors meets each row that was there at its start exactly once, whatever arrives meanwhile.
        Raises BadRequest for what does not fit.
        """
        _expect(1 <= limit <= 100, "limit", "1 to 100", limit)
        expect_status(status)
        for name, moment in (("from", from_), ("to", to)):
            _expect(moment is None or moment.tzinfo is not None, name, "a time with its zone", moment)
        c, conditions = results.c, []
        if cursor is not None:
            conditions.append(c.id < _decode_cursor(cursor))
        if label is not None:
            conditions.append(c.predicted_label == label)
        if status is not None:
            conditions.append(c.status == status)
        if from_ is not None:
            conditions.append(c.created_at >= from_)
        if to is not None:
            conditions.append(c.created_at < to)
        found = self._records(sa.select(results).where(*conditions).order_by(c.id.desc()).limit(limit + 1))
        more = len(found) > limit
        return Page(records=found[:limit], next_cursor=_encode_cursor(found[limit - 1].id) if more else None)

    def stats(self, bucket_s: int = 3600) -> dict[str, Any]:
        """Counts, label distribution, accuracy, and percentiles of latency_ms per `bucket_s` seconds of created_at.

        total_predictions counts what is done. A percentile is the nearest rank: a latency that was measured. `latency`
        covers the last LATENCY_BUCKETS buckets and leaves out those in which nothing was finished.
        """
        _expect(1 <= bucket_s <= 31 * 86_400, "bucket", "1 second to 31 days", bucket_s)
        c = results.c
        by_status = dict.fromkeys(STATUSES, 0) | {
            row.status: row.n for row in self._run(sa.select(c.status, sa.func.count().label("n")).group_by(c.status))}
        count = sa.func.count().label("count")
        labels = self._run(sa.select(c.predicted_label.label("label"), count).where(c.predicted_label.is_not(None))
                           .group_by(c.predicted_label).order_by(count.desc(), c.predicted_label))
        return {"total_predictions": by_status["done"], "label_distribution": [dict(row._mapping) for row in labels],
                "by_status": by_status, "latency": self._latency(bucket_s), "accuracy": self._accuracy(),
                "confusion": self._confusion()}

    def backlog(self) -> Backlog:
        """What waits for an outcome. A picture that is expected, and has not come yet, does not wait."""
        c = results.c
        waiting = sa.and_(c.status == "pending", sa.not_(_EXPECTED))
        pending, stalled = (sa.select(sa.func.count()).select_from(results).where(where).scalar_subquery()
                            for where in (waiting, c.status == "stalled"))
        oldest = sa.select(c.created_at).where(waiting).order_by(c.id).limit(1).scalar_subquery()
        row = self._run(sa.select(pending.label("pending"), stalled.label("stalled"), oldest.label("oldest_at")))[0]
        return Backlog(**row._mapping)

    def count_pending(self, most: int) -> int:
        """How many are pending, come or not; `most` where there are more."""
        some = sa.select(results.c.id).where(results.c.status == "pending").limit(most).subquery()
        return int(self._run(sa.select(sa.func.count()).select_from(some))[0][0])

    def expected(self, most: int) -> list[str]:
        """The request_ids of those whose picture has not come; `most` of them where there are more."""
        return [row.request_id for row in self._run(sa.select(results.c.request_id).where(_EXPECTED).limit(most))]

    def _latency(self, bucket_s: int) -> list[dict[str, Any]]:
        """Percentiles of each bucket, oldest first. Only one bucket's latencies are in memory at a time, as floats: on
        SQLite a third of the time of ranking them with window functions."""
        first = int(self._now().timestamp()) // bucket_s - LATENCY_BUCKETS + 1
        edges = [datetime.fromtimestamp((first + i) * bucket_s, UTC) for i in range(LATENCY_BUCKETS + 1)]
        answer = []
        with self._connected() as connection:
            for start, end in pairwise(edges):
                c = results.c
                within = (c.created_at >= start, c.created_at < end, c.latency_ms.is_not(None))
                measured = sorted(connection.scalars(sa.select(c.latency_ms).where(*within)))
                if measured:
                    answer.append({"start": _iso(start), "count": len(measured), **_percentiles(measured)})
        return answer

    def _accuracy(self) -> dict[str, Any]:
        c = results.c
        right = sa.func.count(sa.case((c.true_label == c.predicted_label, 1))).label("correct")
        both = sa.and_(c.true_label.is_not(None), c.predicted_label.is_not(None))
        row = self._run(sa.select(sa.func.count().label("n"), right).where(both))[0]
        return {"n": row.n, "correct": row.correct, "accuracy": row.correct / row.n if row.n else None}

    def _confusion(self) -> list[dict[str, Any]]:
        """How often each true label was answered with each label: the CONFUSION_PAIRS that are most frequent."""
        c, count = results.c, sa.func.count().label("count")
        both = (c.true_label.is_not(None), c.predicted_label.is_not(None))
        rows = self._run(sa.select(c.true_label, c.predicted_label, count).where(*both).group_by(c.true_label, c.predicted_label)
                         .order_by(count.desc(), c.true_label, c.predicted_label).limit(CONFUSION_PAIRS))
        return [{"true_label": true, "predicted_label": predicted, "count": n} for true, predicted, n in rows]

    def _held(self, which: sa.ColumnElement[bool], limit: int, for_s: float, counted: dict[str, Any]) -> list[Record]:
        """Put the oldest rows aside for `for_s` seconds, in one statement."""
        found = (sa.select(results.c.id).where(which).order_by(results.c.id).limit(limit)
                 .with_for_update(skip_locked=True).cte("due"))  # FOR UPDATE keeps PostgreSQL from running it twice
        statement = (sa.update(results).where(results.c.id.in_(sa.select(found.c.id)))
                     .values(counted | {"claimed_until": self._now() + timedelta(seconds=for_s)}))
        return sorted(self._records(statement.returning(results)), key=lambda record: record.id)

    def _arrived(self, request_id: str, arrival: Arrival) -> dict[str, Any]:
        return asdict(arrival) | {"request_id": request_id, "created_at": arrival.created_at or self._now()}

    def _settle(self, request_id: str, settled: dict[str, Any], arrival: Arrival | None, *, make: bool = True,
                before: tuple[str, ...]) -> bool:
        """Move a row on from one of the states `before`, in one statement, or make it. True: this call did it."""
        settled = settled | {"claimed_until": None}
        if arrival is None or not make:
            read = {name: value for name in READ if arrival and (value := getattr(arrival, name)) is not None}
            known = sa.and_(results.c.request_id == request_id, results.c.status.in_(before))
            return bool(self._run(sa.update(results).where(known).values(settled | read).returning(results.c.id)))
        insert = self._insert(results).values(self._arrived(request_id, arrival) | settled)
        # The version that was read is the version that the answer is about; the rest of the arrival stays as it came.
        read = {name: sa.func.coalesce(insert.excluded[name], results.c[name]) for name in READ}
        statement = insert.on_conflict_do_update(index_elements=["request_id"], set_=settled | read,
                                                 where=results.c.status.in_(before))
        return bool(self._run(statement.returning(results.c.id)))

    def _records(self, statement: sa.Executable) -> list[Record]:
        return [_record(row._mapping) for row in self._run(statement)]

    def _run(self, statement: sa.Executable) -> list[sa.Row[*tuple[Any, ...]]]:
        with self._connected() as connection:
            return list(connection.execute(statement))

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        try:
            with _reachable(), self._patience or nullcontext(), self._engine.connect() as connection:
                yield connection
        except Unavailable:
            self._engine.dispose()  # what is left may lead to a server that only reads since another took over
            raise


class _Patience:
    """Cuts the connections of an engine off after `answer_s`: whoever waits for an answer learns that none will come. The
    server's own time-outs do not help when the server is gone, or stands still."""

    def __init__(self, engine: sa.Engine, answer_s: float) -> None:
        self._answer_s = answer_s
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        self._waiting = threading.local()
        sa.event.listen(engine, "connect", lambda connection, _: self._opened.add(connection))

    def __enter__(self) -> None:
        self._waiting.over = threading.Event()
        threading.Thread(target=self._watch, args=(self._waiting.over,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._waiting.over.set()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(self._answer_s):  # again: a connection that was cut may be replaced by another that is as dead
            self._cut()

    def _cut(self) -> None:
        for connection in list(self._opened):
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as wire:  # or it is closed already
                wire.shutdown(socket.SHUT_RDWR)


def open_results(url: str, *, now: Callable[[], datetime] = _now, reach: Reach = Reach()) -> Results:
    """Open `sqlite:///FILE` (its folder is made) or `postgresql://...`, to which `reach` applies. Connects at the first
    call, not here; the schema is `migrate`'s. Raises BadSettings for another kind of address."""
    return Results(_engine(url, reach), now=now, answer_s=reach.answer_s)


def migrate(url: str, *, reach: Reach = Reach(), grant: Mapping[str, str | None] | None = None) -> None:
    """Bring the schema to HEAD. Safe to call at every start, and by many processes at once: one of them works, under a
    lock, the others wait. Cheap when nothing is to be done: Alembic is imported only where it is needed.

    A schema that is newer than HEAD stays: each step can be read by the version before it. `grant`, on PostgreSQL: roles
    of `shutterless.migrations.roles` to make, each with its password, None for one that has none.
    """
    engine = _engine(url, reach)
    patience = _Patience(engine, reach.answer_s) if reach.answer_s else nullcontext()
    try:
        with _reachable(), patience:
            if (_schema_version(engine) or "") < HEAD:
                with _locked(engine) as connection:
                    _upgrade(connection)
            if grant is not None:
                from shutterless.migrations.roles import grant_roles

                with _locked(engine) as connection:
                    grant_roles(connection, grant)
    finally:
        engine.dispose()


def expect_status(status: str | None) -> None:
    """Raises BadRequest for what is none."""
    _expect(status is None or status in STATUSES, "status", f"one of {', '.join(STATUSES)}", status)


def parse_time(text: str, name: str) -> datetime:
    """ISO 8601 -> a moment: UTC unless it says otherwise; a date is its midnight; small letters are as good (RFC 3339, section
    5.6). Raises BadRequest naming `name`."""
    try:
        moment = datetime.fromisoformat(text.upper())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{name}: expected a time like 2026-01-31T12:00:00Z, got {text[:40]!r}. "
                         "Correct it, or leave it out.") from error


def _engine(url: str, reach: Reach = Reach()) -> sa.Engine:
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise BadSettings("DATABASE_URL: expected sqlite:///FILE or postgresql://USER@HOST/DATABASE.") from None
    if address.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return _postgres_engine(address.set(drivername="postgresql+psycopg"), reach)
    if address.drivername == "sqlite" and address.database not in (None, "", ":memory:"):
        return _sqlite_engine(address.set(database=url.removeprefix("sqlite:///"), query={}))  # a ? is the file's name's
    raise BadSettings(f"DATABASE_URL: expected sqlite:///FILE or postgresql://..., got {address.drivername}://...")


def _postgres_engine(address: sa.URL, reach: Reach) -> sa.Engine:
    # After a failover, the one that only reads will not do; the last four notice a server that went away without a word.
    arguments: dict[str, Any] = {"connect_timeout": 5, "target_session_attrs": "read-write", "keepalives_idle": 10,
                                 "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
    if reach.ca is not None:
        if not reach.ca.is_file():
            raise BadSettings("SHUTTERLESS_DATABASE_CA: expected the file of certificates that vouch for the database, got "
                              "none there. Build the image with DB_CA=, or correct the path.")
        arguments |= {"sslmode": "verify-full", "sslrootcert": str(reach.ca)}
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT", pool_pre_ping=True, pool_size=min(reach.connections, 5),
                              max_overflow=max(reach.connections - 5, 0), connect_args=arguments, hide_parameters=True)
    if reach.password is not None:
        ask = reach.password

        @sa.event.listens_for(engine, "do_connect")
        def tell_password(_dialect: object, _record: object, _arguments: object, named: dict[str, Any]) -> None:
            named["password"] = ask()

    limits = {"statement_timeout": reach.answer_s, "lock_timeout": reach.answer_s, "idle_session_timeout": reach.idle_s,
              "idle_in_transaction_session_timeout": reach.idle_s}
    words = "; ".join(f"SET {name} = {round(1000 * value)}" for name, value in limits.items() if value is not None)
    if words:
        @sa.event.listens_for(engine, "connect")
        def set_limits(connection: Any, _: object) -> None:
            connection.execute(words)

    return engine


def _sqlite_engine(address: sa.URL) -> sa.Engine:
    folder = Path(str(address.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable("The folder of the database cannot be made. Check the disk and its rights.") from error
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT", connect_args={"timeout": _BUSY_S}, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "fullfsync=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _schema_version(engine: sa.Engine) -> str | None:
    """The revision that the database says it has; None for a new one."""
    with engine.connect() as connection:
        try:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        except sa.exc.DBAPIError as error:
            if _is_temporary(error):
                raise
            return None  # there is no such table yet


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _locked(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that only one process has at a time. A failure on the way closes it, which rolls all of it back."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('shutterless.migrations'))")
        yield connection
        connection.exec_driver_sql("COMMIT")


@contextmanager
def _reachable() -> Iterator[None]:
    """Turn the driver's errors that mean "not now" into Unavailable; the others are bugs and pass as they are."""
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        if isinstance(error, sa.exc.DBAPIError) and not _is_temporary(error):
            raise
        raise Unavailable("The database does not answer. Try again in a moment.") from error


def _is_temporary(error: sa.exc.DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _SQLITE_TEMPORARY  # the low byte is the primary code
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in _POSTGRES_TEMPORARY
    return error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))


def _insert_for(dialect: str) -> Callable[[sa.Table], Any]:
    """The INSERT that knows ON CONFLICT. Imported here: one dialect is a good part of what SQLAlchemy costs."""
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert
        return sqlite_insert
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert
    return postgresql_insert


def _percentiles(ascending: list[float]) -> dict[str, float]:
    """Nearest rank: the smallest value that at least p percent do not exceed."""
    return {f"p{p}_ms": ascending[(len(ascending) * p + 99) // 100 - 1] for p in PERCENTILES}


def _settled(outcome: Outcome) -> dict[str, Any]:
    """Columns that an outcome sets."""
    columns = asdict(outcome) | {"status": outcome.status}
    model = columns.pop("model") or {}
    return columns | {f"model_{part}": model.get(part) for part in ("name", "version", "sha256")}


def _record(row: Mapping[Any, Any]) -> Record:
    model = Model(name=row["model_name"], version=row["model_version"], sha256=row["model_sha256"])
    return Record(**{name: row[name] for name in _PLAIN_FIELDS}, model=model if row["model_name"] else None)


def _encode_cursor(row_id: int) -> str:
    return base64.urlsafe_b64encode(f"before {row_id}".encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (ValueError, binascii.Error):
        text = ""
    digits = text.removeprefix("before ")
    fits = text != digits and digits.isdecimal() and len(digits) <= 19 and int(digits) <= _BIGGEST_ID
    _expect(fits, "cursor", "the next_cursor of an earlier page", cursor)
    return int(digits)


def _expect(fits: bool, name: str, expected: str, got: object) -> None:
    if not fits:
        raise BadRequest(f"{name}: expected {expected}, got {str(got)[:80]!r}. Correct it, or leave it out.")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
