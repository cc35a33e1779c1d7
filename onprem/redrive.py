"""`python -m onprem.redrive`: the uploads that were given up, counted, and sent back to work when the operator says so.

An upload is stalled when it failed several times for reasons that are not its picture's: the log has them, with its request_id.
Mend the reason first. Sent back, it has all its attempts again, and a server on this database finds it within seconds. Run
again, also after it was stopped half-way, it sends what is left.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shutterless.errors import BadSettings, ShutterlessError, Unavailable
from shutterless.settings import Settings

if TYPE_CHECKING:
    from shutterless.results import Results

SAMPLES = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Of the database that the environment names, as the server's does."""
    parser = argparse.ArgumentParser(prog="python -m onprem.redrive", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--yes", action="store_true", help="send them back without asking")
    options = parser.parse_args(arguments)
    try:
        from shutterless.results import open_results

        results = open_results(_known(Settings.from_environment(os.environ).database_url))
        try:
            return redrive(results, is_sure=options.yes)
        finally:
            results.close()
    except ShutterlessError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _known(url: str) -> str:
    """The address of a database that is there: SQLite would make an empty one, in which nothing is stalled."""
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite") and not file.is_file():
        raise BadSettings(f"Expected the server's database, got none at {file}. Run this in the folder in which the server was "
                          "started, or with its SHUTTERLESS_VAR_DIR or DATABASE_URL.")
    return url


def redrive(results: Results, *, is_sure: bool) -> int:
    """Show, ask, send; the exit code."""
    stalled = results.stalled()
    if not stalled:
        _say("No upload is stalled.")
        return 0
    _say(f"{len(stalled):,} uploads are stalled, the oldest since {stalled[0][1]:%Y-%m-%d %H:%M} UTC: "
         f"{_named([request_id for request_id, _ in stalled])}. The server's log says why.")
    if not is_sure and not _agrees(f"Send {len(stalled):,} back? [y/N] "):
        _say("Nothing was sent, and all of them stay.")
        return 0
    return send([request_id for request_id, _ in stalled], results)


def send(request_ids: Sequence[str], results: Results) -> int:
    """One by one, each for good when it is done; tells how many, also when it is interrupted. 1 where the database refused
    some, which stay. Raises Unavailable where it does not answer any longer."""
    from rich.console import Console
    from rich.progress import Progress

    sent, refused = 0, dict[str, str]()
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            for request_id in bar.track(request_ids, description="sent back"):
                try:
                    sent += results.revive(request_id)
                except Unavailable:
                    raise
                except Exception as error:  # told below; the others are not to wait for it
                    refused[request_id] = type(error).__name__
    finally:
        _say(f"{sent:,} of {len(request_ids):,} sent back. GET /results?status=stalled lists what is left, and what fails again.")
    if refused:
        _complain(f"the database refused {len(refused):,}, which stay: {_named(list(refused))} "
                  f"({', '.join(sorted(set(refused.values())))}).")
    return 1 if refused else 0


def _named(request_ids: Sequence[str]) -> str:
    return ", ".join(request_ids[:SAMPLES]) + ", ..." * (len(request_ids) > SAMPLES)


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to say yes
        _say("")
        return False
    except KeyboardInterrupt:
        _say("\nNothing was sent, and all of them stay.")
        raise


def _say(line: str) -> None:
    print(line)  # noqa: T201


def _complain(sentence: str) -> None:
    print(f"shutterless: {sentence}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
