"""Tables for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Columns that end at the right, as those in ms do.
NUMBERS = {"confidence", "size", "side", "batch", "threads", "n", "quantity", "dollars"}


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print to standard output. Columns that are empty in every row are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i in kept:
        table.add_column(head[i], justify="right" if head[i] in NUMBERS or head[i].endswith(" ms") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(row[i])) for i in kept))  # Text: a file called [red] is not markup
    Console(width=None if sys.stdout.isatty() else 1_000).print(table)  # into a file or a pipe, lines are not folded


def printable(text: str) -> str:
    """Text of strangers' without what a terminal would obey: control characters become what Python calls them."""
    return "".join(each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text)
