"""Progress bars: on standard error, for people only, and never in the way of what a program reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
FEW = 20  # done before a bar could be read


def progress(items: Iterable[Item], *, total: int, of: str) -> Iterator[Item]:
    """`items`, with a bar of how many of `total` have passed, where somebody sees it."""
    if total <= FEW or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(TextColumn(of), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   console=Console(stderr=True), redirect_stdout=False, redirect_stderr=False, transient=True)
    with bar:
        yield from bar.track(items, total=total)


@contextmanager
def steps() -> Iterator[tuple[Callable[[str], object], Callable[[int, int], object]]]:
    """Two functions: one begins a step with a sentence, a line each; the other moves its bar by so many of so many."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task("", total=None)

    def step(sentence: str) -> None:
        nonlocal task
        console.print(f"• {sentence}", markup=False)
        bar.remove_task(task)
        task = bar.add_task(sentence.partition(":")[0], total=None)

    def advance(n: int, total: int) -> None:
        bar.update(task, advance=n, total=total)

    with bar:
        yield step, advance
