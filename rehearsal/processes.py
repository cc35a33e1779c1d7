"""Programs that a rehearsal starts: each in a group of its own, with a mark that its children carry on, so that none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shutterless.errors import BadSettings

MARK = "SHUTTERLESS_REHEARSAL"  # in the environment: the folder of the run that started it
GRACE_S = 10.0


class Late(BadSettings):
    """A program has not ended in time; it and all its children were ended."""


def marked(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """An environment for a program of the run in `folder`: this process's own without what it says of AWS, and `more`."""
    return {**{name: text for name, text in os.environ.items() if not name.startswith("AWS_")}, **more, MARK: str(folder)}


@contextmanager
def ended(process: subprocess.Popen[bytes], what: str) -> Iterator[None]:
    """Wait for it inside: whatever is raised there, an interruption too, nothing of its group goes on behind it.

    Raises Late for subprocess.TimeoutExpired.
    """
    try:
        yield
    except BaseException as error:
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(process, number)
            try:
                process.wait(GRACE_S)
                break
            except subprocess.TimeoutExpired:
                continue
        _signal_group(process, signal.SIGKILL)  # children that outlived it
        if isinstance(error, subprocess.TimeoutExpired):
            raise Late(f"{what} has not ended within {error.timeout:.0f} s.") from None
        raise


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def marked_ids(folder: Path) -> list[int]:
    """Ids of all processes with this run's mark that have not ended."""
    mark, found = f"{MARK}={folder}".encode(), list[int]()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def end_marked(folder: Path) -> None:
    """End all of them, by force those that do not. Raises BadSettings where one stays even then."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline, told = time.monotonic() + GRACE_S, set[int]()
        while (left := set(marked_ids(folder))) and time.monotonic() < deadline:
            for process in left - told:
                _signal(process, number)
            told |= left
            time.sleep(0.2)
        if not left:
            return
    raise BadSettings(f"These processes of a rehearsal do not end: {', '.join(map(str, sorted(left)))}. End them by hand.")


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return
