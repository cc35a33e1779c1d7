"""A command that is told to end (SIGTERM, SIGHUP) takes away what it was writing, as it does at Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_tidily() -> Iterator[None]:
    """Within it these signals raise SystemExit with a shell's code for them; those that are ignored, as by nohup, stay so."""
    ours = [name for name in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(name) is signal.SIG_DFL]
    for name in ours:
        signal.signal(name, _leave)
    try:
        yield
    finally:
        for name in ours:
            signal.signal(name, signal.SIG_DFL)


def _leave(name: int, frame: FrameType | None) -> None:
    for also in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(also, signal.SIG_IGN)  # a second one must not break the tidying off
    sys.exit(128 + name)
