"""A batch of notices -> settled results. Whatever is not settled goes back to the queue; nothing is acknowledged before.

The order of the steps keeps the promise "one upload, one result": look at the rows; at a message's last delivery write
`stalled`, before anything can go wrong; read, decode, run; write the outcome; then acknowledge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from traceback import format_exception
from typing import Any, NamedTuple, Protocol

from lambdas.metrics import write_line
from lambdas.notices import Message, Notice
from lambdas.storage import Storage
from shutterless.aws import S3Objects, Stored
from shutterless.errors import ShutterlessError, Unavailable
from shutterless.formats import sniff
from shutterless.results import Arrival, Outcome, Record
from shutterless.settling import HOPELESS, STALLED, Work
from shutterless.uploads import request_id_of, task_of

GROUP = 8  # pictures that go through the network together; as many files are in memory at the same time
READERS = 4  # that wait for S3 at the same time
RESERVE_S = 10.0  # left for a group that began in time; a quarter of the invocation where that is less

Tell = Callable[["Job", Outcome], None]


class Answerer(Protocol):
    """A model, as a batch uses it."""

    def prepare(self, picture: bytes, asked_model: str | None) -> Any:
        """What the model takes of one picture. Raises BadPicture, or NotFound for a model that does not answer here."""

    def answer(self, prepared: Sequence[Any], works: Sequence[Work]) -> list[Outcome]:
        """Their outcomes, found together."""


@dataclass(kw_only=True, eq=False)
class Job:
    """One version of one object. receives: how often its message was delivered, with this time."""

    notice: Notice
    request_id: str
    is_ours: bool
    receives: int
    record: Record | None = None
    is_settled: bool = False

    def arrival(self, picture: bytes = b"") -> Arrival:
        """What is known of it without its row, or better than there."""
        notice, found = self.notice, sniff(picture)
        return Arrival(task=task_of(notice.key), image_name=None if self.is_ours else notice.key.rpartition("/")[2],
                       object_key=notice.key, object_version=notice.version,
                       content_type=found.content_type if found else None, created_at=notice.came_at)

    def work(self) -> Work:
        return Work(self.record.created_at if self.record else self.notice.came_at or datetime.now(UTC))


class Reading(NamedTuple):
    """What S3 says of a job. stored: None when it was deleted. is_replay: another version came first."""

    stored: Stored | None
    is_replay: bool = False


class Ready(NamedTuple):
    """A job whose picture the model can take."""

    job: Job
    work: Work
    arrival: Arrival
    prepared: Any


@dataclass(kw_only=True)
class Batch:
    """Settles messages. answerer: opens the model, or has it open. time_left_s: of this invocation. tell: hears of every
    outcome that was saved. counts: what happened, for the metrics."""

    storage: Storage
    answerer: Callable[[], Answerer]
    max_bytes: int
    max_receives: int
    time_left_s: Callable[[], float]
    tell: Tell
    counts: Counter[str] = field(default_factory=Counter)

    def settle(self, messages: Sequence[Message]) -> list[Message]:
        """Do what can be done; returns the messages that have to come again. Those that nobody understands do, too, until
        they are dead letters: there they can be looked at. Raises nothing."""
        clock, jobs = _Clock(self.time_left_s), _jobs(messages)
        for step in (partial(self._run, clock=clock), partial(self._stall_last_chances, make=True)):
            try:
                step([job for job in jobs.values() if not job.is_settled])
            except Exception as error:  # the database's, the model's or ours; never a picture's
                self._report(error)
        left = [message for message in messages
                if message.fault or not all(jobs[notice].is_settled for notice in message.notices)]
        for message in left:
            self.counts["Malformed" if message.fault else "Retried"] += 1
            if message.fault:
                write_line({"level": "ERROR", "message_id": message.id, "error": f"A message is malformed. {message.fault}"})
        return left

    def _run(self, jobs: list[Job], clock: _Clock) -> None:
        if not jobs:
            return
        records = self.storage.results.get_all([job.request_id for job in jobs])
        for job in jobs:
            job.record = records.get(job.request_id)
            if job.record and job.record.status in ("done", "failed"):
                self._drop(job, "Duplicates")
        still = [job for job in jobs if not job.is_settled]
        self._stall_last_chances(still, make=False)
        if still:
            answerer = self.answerer()
            with ThreadPoolExecutor(READERS, thread_name_prefix="s3") as readers:
                for group in _groups(still):
                    if not clock.has_time_for_another():
                        break
                    try:
                        self._run_group(group, answerer, readers)
                    except Unavailable:  # the database: nothing more can be saved
                        raise
                    except Exception as error:  # of this group; the others need not wait for the next delivery
                        self._report(error)

    def _stall_last_chances(self, jobs: Iterable[Job], *, make: bool) -> None:
        """Rows that are there before the work, since an outcome moves them on, but nobody is left to say that it was given up
        if the work ends the process. Rows that have to be made for it (`make`) only after, and none for an id that a door gave:
        that had one, so it was deleted."""
        for job in jobs:
            if job.receives >= self.max_receives and make == (job.record is None):
                self.counts["LastChances"] += self.storage.results.stall(job.request_id, STALLED, arrival=job.arrival(),
                                                                         make=make and not job.is_ours)

    def _run_group(self, group: list[Job], answerer: Answerer, readers: ThreadPoolExecutor) -> None:
        if group[0].receives > 1:
            self.storage.results.count_attempt(group[0].request_id)
        readings = [(job, readers.submit(_read, self.storage.objects_in(job.notice.bucket), job, self.max_bytes))
                    for job in group]
        ready = [one for job, reading in readings if (one := self._prepare(job, reading, answerer))]
        if ready:
            outcomes = answerer.answer([one.prepared for one in ready], [one.work for one in ready])
            for one, outcome in zip(ready, outcomes, strict=True):
                self._finish(one.job, outcome, one.arrival)

    def _prepare(self, job: Job, reading: Future[Reading], answerer: Answerer) -> Ready | None:
        """One picture, alone with its faults: those that are its own are recorded, others bring it back later."""
        work = job.work()
        try:
            stored, is_replay = reading.result()
            if stored and not is_replay:
                asked = job.record.asked_model if job.record else None
                return Ready(job, work, job.arrival(stored.body), answerer.prepare(stored.body, asked))
        except HOPELESS as error:
            self._finish(job, work.failed(error), job.arrival())
        except Exception as error:  # not the picture's: logged, and the message comes back
            self._report(error, job)
        else:
            self._drop(job, "Duplicates" if is_replay else "Deleted")
        return None

    def _finish(self, job: Job, outcome: Outcome, arrival: Arrival) -> None:
        """A row that was there when the work began, and is not any more, was deleted: it is not made again."""
        is_first = self.storage.results.finish(job.request_id, outcome, arrival=arrival, make=job.record is None)
        job.is_settled = True
        self.counts[outcome.status.capitalize() if is_first else "Duplicates"] += 1
        if is_first:
            self.tell(job, outcome)

    def _drop(self, job: Job, why: str) -> None:
        if why == "Duplicates":
            self.storage.results.count_duplicate(job.request_id)
        job.is_settled = True
        self.counts[why] += 1

    def _report(self, error: Exception, job: Job | None = None) -> None:
        entry = {"level": "ERROR", "request_id": job.request_id if job else None, "error": str(error)}
        if isinstance(error, ShutterlessError):
            entry |= {"cause": str(error.__cause__ or "").partition("\n")[0][:500]}
        else:
            entry |= {"error": repr(error)[:2000], "trace": "".join(format_exception(error))}
        write_line(entry)


class _Clock:
    """Whether another group can be done in what is left of an invocation. Made when that begins."""

    def __init__(self, time_left_s: Callable[[], float]) -> None:
        self._time_left_s, self._reserve_s = time_left_s, min(RESERVE_S, time_left_s() / 4)
        self._longest_s, self._began = 0.0, float("inf")  # the first group has not begun yet

    def has_time_for_another(self) -> bool:
        """Ask before each group, so that the last one's time is known."""
        now = monotonic()
        self._longest_s, self._began = max(self._longest_s, now - self._began), now
        return self._time_left_s() > max(self._reserve_s, 1.5 * self._longest_s)


def _jobs(messages: Sequence[Message]) -> dict[Notice, Job]:
    """Each object once, however many messages name it."""
    jobs: dict[Notice, Job] = {}
    for message in messages:
        for notice in message.notices:
            request_id, is_ours = request_id_of(notice.bucket, notice.key, notice.version)
            job = jobs.setdefault(notice, Job(notice=notice, request_id=request_id, is_ours=is_ours, receives=0))
            job.receives = max(job.receives, message.receives)
    return jobs


def _groups(jobs: list[Job]) -> Iterator[list[Job]]:
    """New ones together. Those that came back go alone, and the ones that were begun most often go last: if one of them ends
    the process each time, the others are done before."""
    new = [job for job in jobs if job.receives <= 1]
    again = sorted((job for job in jobs if job.receives > 1), key=lambda job: job.record.attempts if job.record else 0)
    yield from (new[at:at + GROUP] for at in range(0, len(new), GROUP))
    yield from ([job] for job in again)


def _read(objects: S3Objects, job: Job, max_bytes: int) -> Reading:
    """Without a row, the newest version tells whether that was deleted with it. What came by a form may have been put there
    again, by the same form: then only the first version counts, whichever is delivered first."""
    key, version = job.notice.key, job.notice.version
    if job.record is None and objects.is_deleted(key):
        return Reading(None)
    stored = objects.read(key, version, max_bytes=max_bytes)
    return Reading(stored, stored.by_form and version is not None and objects.first_version(key) != version)

