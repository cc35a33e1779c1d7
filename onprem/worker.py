"""The asynchronous way after its 202: pending rows -> stored pictures -> classify -> results."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Executor, wait
from time import monotonic
from typing import TYPE_CHECKING

from onprem.storage import Outage, Storage
from onprem.tallies import Tallies, reason_of
from shutterless.expiry import expire_late
from shutterless.pictures import Limits
from shutterless.settling import HOPELESS, STALLED, Work
from shutterless.shelf import Shelf

if TYPE_CHECKING:
    from shutterless.results import Outcome, Record

LEASE_S = 30.0  # far more than a picture takes
MAX_ATTEMPTS = 5
RETRY_S = 5.0  # until a temporary fault is tried again; after each more, LONGER times as long: seven minutes in all
LONGER = 4
LATE_S = 0.2  # of poll_s, for pictures that never came; those that did wait no longer than that
POLL_S = 5.0  # uploads of this server wake the worker; other servers' uploads and ended leases are found by looking

log = logging.getLogger(__name__)


class Worker:
    """One thread that takes what is due, `batch` at a time, and lets `compute` classify it.

    A killed process loses nothing: its rows stay pending, and are taken again when their leases end.
    """

    def __init__(self, *, storage: Storage, shelf: Shelf, compute: Executor, limits: Limits, batch: int,
                 lease_s: float = LEASE_S, poll_s: float = POLL_S, retry_s: float = RETRY_S,
                 tallies: Tallies | None = None) -> None:
        self._storage, self._shelf, self._compute, self._limits = storage, shelf, compute, limits
        self._batch, self._lease_s, self._poll_s, self._retry_s = batch, lease_s, poll_s, retry_s
        self._tallies = tallies or Tallies()
        self._outage = Outage("No work can be taken from the database; trying again")
        self._late_outage = Outage("Nobody can say which announced pictures never came; trying again")
        self._looked_at = -poll_s
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new row."""
        self._woken.set()

    def stop(self) -> None:
        """Take nothing more, finish what was taken, return when it is saved."""
        self._stopping.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        self._storage.open(self._stopping)
        while not self._stopping.is_set():
            self._woken.clear()
            self._look_for_late()
            if not self._take():
                self._woken.wait(self._poll_s)

    def _look_for_late(self) -> None:
        """Once in poll_s: give up pictures whose forms are over; take those that came though nobody could say so any more."""
        if monotonic() - self._looked_at < self._poll_s:
            return
        self._looked_at = monotonic()
        try:
            results = self._storage.results
            expire_late(results, lambda: self._storage.objects, came=lambda record: results.arrive(record.request_id),
                        most_s=LATE_S)
            self._late_outage.ended()
        except Exception:  # logged; the rows wait for the next look
            self._late_outage.goes_on()

    def _take(self) -> int:
        """Settle one batch; returns how many there were."""
        try:
            records = self._storage.results.claim(self._batch, self._lease_s)
        except Exception:  # logged; the rows wait
            self._outage.goes_on()
            return 0
        self._outage.ended()
        wait([self._compute.submit(self._settle, record) for record in records])
        return len(records)

    def _settle(self, record: Record) -> None:
        """Save an outcome. After a temporary fault, the row is due again after a pause that grows."""
        try:
            if record.attempts > MAX_ATTEMPTS:  # each of them ended with the process: this picture may be the reason
                self._stall(record)
            else:
                outcome = self._outcome(record)
                if self._storage.results.finish(record.request_id, outcome):
                    self._tallies.settled(outcome)
        except Exception:  # logged; the picture is due again
            self._tallies.failed("temporary")
            log.exception("Picture %s failed, attempt %d of %d", record.request_id, record.attempts, MAX_ATTEMPTS)
            self._put_back(record)

    def _put_back(self, record: Record) -> None:
        try:
            if record.attempts >= MAX_ATTEMPTS:
                self._stall(record)
            else:
                self._storage.results.defer(record.request_id, self._retry_s * LONGER ** (record.attempts - 1))
        except Exception:  # logged; the worker goes on
            log.exception("Picture %s cannot be put back; its lease will end", record.request_id)

    def _stall(self, record: Record) -> None:
        if self._storage.results.stall(record.request_id, STALLED):
            self._tallies.stalled()

    def _outcome(self, record: Record) -> Outcome:
        work = Work(record.created_at)
        try:
            picture = self._storage.objects.get(str(record.object_key), record.object_version)
            classifier = self._shelf.classifier(record.asked_model)
            answer = classifier.predict(picture, limits=self._limits)
        except HOPELESS as error:
            self._tallies.failed(reason_of(error))
            return work.failed(error)
        self._tallies.ran(1, answer.timings.inference_s)
        self._tallies.predicted(answer)
        return work.done(answer.prediction, classifier.model, answer.timings.inference_s)
