"""Which CPUs threads run on, where that is known better than by the system. Linux alone lets them be told.

A thread that is woken goes to its last CPU or to the waker's, even to a busy one, and may stay there for milliseconds while
another is idle: with a runner of batches for each CPU, that cost a tenth of all time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CAN_TELL = hasattr(os, "sched_setaffinity")


def one_each(threads: int) -> list[int | None]:
    """A CPU for each of so many threads that are busy most of the time; None for all where there is not exactly one for each: the
    system shares them better then."""
    cpus = sorted(os.sched_getaffinity(0)) if CAN_TELL else []
    return [*cpus] if len(cpus) == threads > 1 else [None] * threads


def stay_on(cpu: int | None) -> None:
    """From now on this thread, and those that it starts, run there. None: wherever they may."""
    if cpu is not None:
        with suppress(OSError):  # it was taken away meanwhile
            os.sched_setaffinity(0, {cpu})


def wherever_i_may() -> Callable[[], None]:
    """What lets another thread of this process run where the caller's may now, whoever starts it."""
    if not CAN_TELL:
        return lambda: None
    cpus = os.sched_getaffinity(0)

    def free() -> None:
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)

    return free


@contextmanager
def waking_on(cpu: int | None, thread: int) -> Iterator[None]:
    """That thread, by its native id, goes to `cpu` if it is woken in this block. Afterwards it may run where it might before, and
    so may those that it starts: it starts none meanwhile where the block holds the interpreter's lock."""
    before: set[int] = set()
    if cpu is not None:
        with suppress(OSError):  # the thread has ended, or the system forbids it
            before = os.sched_getaffinity(thread)
    if cpu not in before or len(before) == 1:
        yield
        return
    try:
        with suppress(OSError):
            os.sched_setaffinity(thread, {cpu})
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(thread, before)
