"""Progress bars: on standard error, for people only, and never in the way of what a program reads."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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
