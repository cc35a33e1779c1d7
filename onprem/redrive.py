"""`python -m onprem.redrive`: the uploads that were given up, counted, and sent back to work when the operator says so.

An upload is stalled when it failed several times for reasons that are not its picture's: the log has them, with its request_id.
Mend the reason first. Sent back, it has all its attempts again, and a server on this database finds it within seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.errors import BadSettings, ShutterlessError
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.results import Record, Results

PAGE = 100
SAMPLES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Of the database that the environment names, as the server's does."""
    parser = argparse.ArgumentParser(prog="python -m onprem.redrive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yes", action="store_true", help="send them back without asking")
    options = parser.parse_args(arguments)
    from shutterless.results import open_results

    try:
        results = open_results(_known(Settings.from_environment(os.environ).database_url))
        try:
            return redrive(results, is_sure=options.yes)
        finally:
            results.close()
    except ShutterlessError as error:
        print(f"shutterless: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _known(url: str) -> str:
    """The address of a database that is there: SQLite would make an empty one, in which nothing is stalled."""
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite") and not file.is_file():
        raise BadSettings(f"Expected the server's database, got none at {file}. Run this in the folder in which the server was "
                          "started, or with its SHUTTERLESS_VAR_DIR or DATABASE_URL.")
    return url


def redrive(results: Results, *, is_sure: bool) -> int:
    """Show, ask, send; the exit code."""
    stalled = list(stalled_records(results))
    if not stalled:
        _say("No upload is stalled.")
        return 0
    names = ", ".join(record.request_id for record in stalled[-SAMPLES:])
    _say(f"{len(stalled):,} uploads are stalled, the oldest since {stalled[-1].created_at:%Y-%m-%d %H:%M} UTC: "
         f"{names}{', ...' * (len(stalled) > SAMPLES)}. The server's log says why.")
    if not is_sure and not _agrees(f"Send {len(stalled):,} back? [y/N] "):
        _say("Nothing was sent, and all of them stay.")
        return 0
    sent = sum(results.revive(record.request_id) for record in stalled)
    _say(f"{sent:,} sent back. GET /results?status=stalled lists those that fail again.")
    return 0


def stalled_records(results: Results) -> Iterator[Record]:
    """Newest first."""
    cursor: str | None = None
    while True:
        page = results.page(limit=PAGE, status="stalled", cursor=cursor)
        yield from page.records
        cursor = page.next_cursor
        if cursor is None:
            return


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to say yes
        _say("")
        return False


def _say(line: str) -> None:
    print(line)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
