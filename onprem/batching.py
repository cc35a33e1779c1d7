"""Pictures that arrive together: decoded side by side, then run through the network as one batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from shutterless.classifier import Answer, Classifier, Prepared

MAX_BATCH = 16  # pictures; beyond it a run costs no less per picture
COMPANY_S = 0.003  # how long a picture may wait for those that are being decoded


@dataclass(frozen=True, eq=False)
class Ready:
    """A picture that only lacks the network: whose answer it will be, and how many labels are asked for."""

    classifier: Classifier
    prepared: Prepared
    top: int

    @property
    def kind(self) -> tuple[int, int]:
        """Pictures of one kind can be run together."""
        return id(self.classifier), self.top


class _Turn(NamedTuple):
    ready: Ready
    answer: Future[Answer]


class Batcher:
    """Prepares on `compute`; runs up to `runners` batches at the same time, on threads of its own.

    A picture that is alone is run at once. Where others are being prepared, it waits for them, for COMPANY_S at most.
    Who calls bounds how many are in hand: every one of them is taken. `ran` is told of each run: how many pictures, seconds.
    """

    def __init__(self, compute: Executor, *, runners: int,
                 ran: Callable[[int, float], object] = lambda pictures, seconds: None) -> None:
        self._compute, self._max_runners, self._ran = compute, runners, ran
        self._runs = ThreadPoolExecutor(runners, thread_name_prefix="batch")
        all_begun = threading.Barrier(runners)  # now: a thread that cannot be had later would leave its pictures waiting
        for begun in [self._runs.submit(all_begun.wait) for _ in range(runners)]:
            begun.result()
        self._changed = threading.Condition()  # guards all below
        self._ready: list[_Turn] = []
        self._preparing = self._runners = self._choosing = 0

    def answer(self, prepare: Callable[[], Ready]) -> Future[Answer]:
        """The answer to one picture, or what `prepare` or the network raised. `prepare` is called on a compute thread; do
        not wait for the answer on one."""
        answer: Future[Answer] = Future()
        with self._changed:
            self._preparing += 1
        try:
            self._compute.submit(self._prepare, prepare, answer)
        except BaseException:  # raised again: nobody may wait for a picture that is not being prepared
            self._prepared()
            raise
        return answer

    def stop(self) -> None:
        """Finish what is in hand. Call it when `compute` has come to rest."""
        self._runs.shutdown()

    def _prepare(self, prepare: Callable[[], Ready], answer: Future[Answer]) -> None:
        turns: list[_Turn] = []
        try:
            if answer.set_running_or_notify_cancel():  # else nobody waits for it any longer
                turns = [_Turn(prepare(), answer)]
        except BaseException as error:  # it reaches who asked
            answer.set_exception(error)
        finally:
            self._prepared(*turns)

    def _prepared(self, *turns: _Turn) -> None:
        with self._changed:
            self._preparing -= 1
            self._ready.extend(turns)
            if self._ready and self._runners < self._max_runners:
                self._runners += 1
                self._runs.submit(self._run)
            self._changed.notify_all()

    def _run(self) -> None:
        while turns := self._chosen():
            self._settle(turns)

    def _chosen(self) -> list[_Turn]:
        """The next batch: this runner's share of what is ready. Empty when nothing is: then the runner ends."""
        with self._changed:
            self._choosing += 1
            self._changed.wait_for(lambda: not self._preparing or len(self._ready) >= MAX_BATCH, COMPANY_S)
            share = -(-len(self._ready) // self._choosing)
            self._choosing -= 1
            alike = [turn for turn in self._ready if turn.ready.kind == self._ready[0].ready.kind]
            turns = alike[:min(share, MAX_BATCH)]
            self._ready = [turn for turn in self._ready if turn not in turns]
            self._runners -= not turns
            return turns


    def _settle(self, turns: list[_Turn]) -> None:
        """One run for all. Where that fails, each runs alone, so that none fails for another."""
        first = turns[0].ready
        try:
            answers = first.classifier.answers([turn.ready.prepared for turn in turns], first.top)
        except BaseException as error:  # it reaches who asked
            if len(turns) == 1:
                turns[0].answer.set_exception(error)
            else:
                for turn in turns:
                    self._settle([turn])
            return
        self._ran(len(turns), answers[0].timings.inference_s)
        for turn, answer in zip(turns, answers, strict=True):
            turn.answer.set_result(answer)
