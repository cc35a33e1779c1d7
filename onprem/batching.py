"""Pictures that arrive together: decoded side by side, and run through the network as batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from onprem.cpus import one_each, stay_on, waking_on
from shutterless.classifier import Answer, Classifier, Prepared

MAX_BATCH = 16  # pictures; beyond it a run costs no less per picture
COMPANY_S = 0.006  # how long a runner waits for those that were there a moment ago


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


@dataclass(eq=False)
class _Turn:
    """Somebody waits for `answer`. ready: where it is prepared already."""

    answer: asyncio.Future[Answer]
    prepare: Callable[[], Ready]
    prepare_soon: Callable[[], Ready | None] | None
    ready: Ready | None = None


Outcomes = list[tuple[_Turn, Answer | BaseException]]


class Batcher:
    """Runs up to `runners` batches at the same time, on threads of its own, each of which takes its share of what waits,
    decodes what is quickly decoded, and runs it. What takes longer is prepared on `compute` before.

    A picture that is alone is run at once. Where more were in hand a moment ago, a runner waits until its share of them is there
    again, for COMPANY_S at most. Who calls bounds how many are in hand: every one of them is taken. `ran` is told of each run:
    how many pictures, seconds.
    """

    def __init__(self, compute: Executor, *, runners: int,
                 ran: Callable[[int, float], object] = lambda pictures, seconds: None) -> None:
        self._compute, self._count, self._ran = compute, runners, ran
        self._changed = threading.Condition()  # guards all below
        self._waiting: list[_Turn] = []
        self._in_hand = self._crowd = 0  # now, and at most since somebody was waited for in vain
        self._idle: list[int] = []  # of each runner that waits: for how many
        self._stopping = False
        self._loop_thread = 0
        self._threads = [threading.Thread(target=self._run, args=(cpu,), name=f"batch_{n}", daemon=True)
                         for n, cpu in enumerate(one_each(runners))]
        for thread in self._threads:  # now: one that cannot be had later would leave its pictures waiting
            thread.start()

    def answer(self, prepare: Callable[[], Ready],
               prepare_soon: Callable[[], Ready | None] | None = None) -> asyncio.Future[Answer]:
        """The answer to one picture, or what `prepare` or the network raised. Only an event loop may ask.

        prepare_soon: called first, by a runner; None where preparing takes more than a few milliseconds.
        """
        self._loop_thread = threading.get_native_id()
        turn = _Turn(asyncio.get_running_loop().create_future(), prepare, prepare_soon)
        with self._changed:
            self._in_hand += 1
        if prepare_soon is not None:
            self._wait(turn)
            return turn.answer
        try:
            self._compute.submit(self._prepare, turn)
        except BaseException:  # raised again: nobody may wait for a picture that is not being prepared
            self._leave(1)
            raise
        return turn.answer

    def stop(self) -> None:
        """Finish what is in hand. Blocks. Call it when nothing more comes, and before `compute` is shut down."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _prepare(self, turn: _Turn) -> None:
        try:
            if turn.answer.cancelled():  # nobody waits for it any longer
                self._leave(1)
                return
            turn.ready = turn.prepare()
        except BaseException as error:  # it reaches who asked
            self._send([(turn, error)])
            return
        self._wait(turn)

    def _wait(self, turn: _Turn) -> None:
        with self._changed:
            self._waiting.append(turn)
            if self._idle and len(self._waiting) >= min(self._idle):
                self._changed.notify_all()

    def _leave(self, count: int) -> None:
        with self._changed:
            self._crowd = max(self._crowd, self._in_hand)
            self._in_hand -= count
            if self._is_over:
                self._changed.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._stopping and not self._in_hand

    def _run(self, cpu: int | None) -> None:
        stay_on(cpu)
        while self._step(cpu):
            pass

    def _step(self, cpu: int | None) -> bool:
        """One share of what waits; False at the end. A function of its own, since a name would keep the last bodies in memory."""
        turns = self._taken()
        for batch in self._batches(turns):
            self._send(self._settled(batch), cpu)
        return bool(turns)

    def _taken(self) -> list[_Turn]:
        """This runner's share of what waits. Empty when the batcher stops."""
        with self._changed:
            share = min(self._crowd // self._count, MAX_BATCH)
            if len(self._waiting) < share and not self._came(share, COMPANY_S):
                self._crowd = self._in_hand  # some have gone
            if not self._waiting:
                self._came(1)
                share = 0  # whoever comes after a rest is a new crowd
            share = min(max(share, -(-self._in_hand // self._count)), MAX_BATCH)  # more would leave others too few
            turns = self._waiting[:share]
            del self._waiting[:share]
            return turns

    def _came(self, count: int, seconds: float | None = None) -> bool:
        """Whether so many wait, in time."""
        self._idle.append(count)
        came = self._changed.wait_for(lambda: len(self._waiting) >= count or self._is_over, seconds)
        self._idle.remove(count)
        return came

    def _batches(self, turns: Iterable[_Turn]) -> Iterable[list[_Turn]]:
        """Those that are ready, by kind. Those that take longer to prepare are handed on."""
        batches: dict[tuple[int, int], list[_Turn]] = {}
        for turn in turns:
            if (ready := self._ready(turn)) is not None:
                batches.setdefault(ready.kind, []).append(turn)
        return batches.values()

    def _ready(self, turn: _Turn) -> Ready | None:
        if turn.answer.cancelled():  # nobody waits for it any longer
            self._leave(1)
            return None
        try:
            ready = turn.ready or (turn.prepare_soon() if turn.prepare_soon else None)
            if ready is None:
                self._compute.submit(self._prepare, turn)  # from now on, it is no longer this runner's
                return None
        except BaseException as error:  # it reaches who asked
            self._send([(turn, error)])
            return None
        turn.ready = ready
        return ready

    def _settled(self, turns: list[_Turn]) -> Outcomes:
        """One run for all. Where that fails, each runs alone, so that none fails for another."""
        ready = [turn.ready for turn in turns if turn.ready]
        try:
            answers = ready[0].classifier.answers([one.prepared for one in ready], ready[0].top)
        except BaseException as error:  # it reaches who asked
            return [(turns[0], error)] if len(turns) == 1 else [self._settled([turn])[0] for turn in turns]
        self._ran(len(turns), answers[0].timings.inference_s)
        return list(zip(turns, answers, strict=True))

    def _send(self, outcomes: Outcomes, cpu: int | None = None) -> None:
        self._leave(len(outcomes))
        with waking_on(cpu, self._loop_thread), suppress(RuntimeError):  # the loop is gone, and who asked with it
            outcomes[0][0].answer.get_loop().call_soon_threadsafe(_give, outcomes)


def _give(outcomes: Outcomes) -> None:
    for turn, outcome in outcomes:
        if turn.answer.done():
            continue
        if isinstance(outcome, BaseException):
            turn.answer.set_exception(outcome)
        else:
            turn.answer.set_result(outcome)
