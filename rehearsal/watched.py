"""The steps of a rehearsal as a person sees them: a line each, with its time; and what came of them, for the table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rehearsal.gaps import Gap


class CheckFailed(AssertionError):
    """The deployed system does not do what it should: a sentence of what was expected and what came."""


@dataclass
class Step:
    """seconds: None while it runs. failure: None when all was as it should be."""

    name: str
    seconds: float | None = None
    failure: str | None = None
    notes: list[str] = field(default_factory=list)


class Steps:
    """All steps so far. A step that sets up ends the rehearsal where it fails; a check is noted, and the next one follows."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.done: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Raises what went wrong in it."""
        step, began = Step(name), time.monotonic()
        self.done.append(step)
        try:
            with self.console.status(escape(name)):
                yield step
        except BaseException as error:  # raised again, as it stands in the table
            step.failure = str(error).strip() or type(error).__name__
            raise
        finally:
            step.seconds = time.monotonic() - began
            self._tell(step)

    @contextmanager
    def check(self, name: str) -> Iterator[Step]:
        """Swallows what went wrong in it, interruptions apart: the run fails at its end."""
        try:
            with self.step(name) as step:
                yield step
        except Exception:  # noted in the step, whatever it is: what follows is worth knowing too
            return

    @property
    def has_failed(self) -> bool:
        return any(step.failure for step in self.done)

    def _tell(self, step: Step) -> None:
        mark = "[red]✗[/red]" if step.failure else "[green]✓[/green]"
        notes = f"  [dim]{escape('; '.join(step.notes))}[/dim]" if step.notes else ""
        self.console.print(f"{mark} {step.seconds:6.1f} s  {escape(step.name)}{notes}")
        if step.failure:
            self.console.print(f"             {escape(step.failure)}", style="red")

    def table(self, gaps: list[Gap]) -> Table:
        """What was rehearsed, and what no rehearsal can vouch for."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("", "what", "s", "how it went, or why not"):
            table.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
        for step in self.done:
            mark = "[red]failed[/red]" if step.failure else "[green]rehearsed[/green]"
            told = step.failure.splitlines()[0] if step.failure else "; ".join(step.notes)
            table.add_row(mark, escape(step.name), f"{step.seconds or 0:.1f}", escape(told))
        for gap in gaps:
            table.add_row("[yellow]not rehearsed[/yellow]", escape(gap.what), "", escape(f"{gap.why} {gap.held_by}"))
        return table


def expect(is_right: bool, sentence: str) -> None:
    """Raises CheckFailed with the sentence."""
    if not is_right:
        raise CheckFailed(sentence)
