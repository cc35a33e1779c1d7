"""What counting for /metrics adds to one POST /predict.

    python -m benchmarks.tallies

Calls the on-prem door in this process, without a socket, with its tallies and with ones that count nothing, in turns, and
compares the CPU time of the thread that answers: medians of the turns, so that other programs disturb both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import thread_time
from typing import Any

from fastapi import FastAPI

from benchmarks.predict import drawn_jpeg
from shutterless.settings import Settings

ROUND = 50  # calls in a row before the other side has its turn
BUDGET_MS = 0.05
COUNTED = ("began", "answered", "ran", "predicted")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a sentence, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, help=f"turns of {ROUND} calls for each side (default: 100)")
    options = parser.parse_args(arguments)
    report = asyncio.run(compare(drawn_jpeg(64), options.rounds))
    print(f"Counting adds {report['added_ms']:.4f} ms of CPU to a prediction of {report['without_ms']:.3f} ms; "
          f"{BUDGET_MS} ms is what it may.")
    print(json.dumps(report))
    return 0


async def compare(picture: bytes, rounds: int) -> dict[str, Any]:
    """CPU milliseconds per call, with and without."""
    from onprem.app import create_app

    with tempfile.TemporaryDirectory() as var_dir:
        app = create_app(replace(Settings.from_environment(os.environ), var_dir=Path(var_dir)))
        counting = {name: getattr(app.state.door.tallies, name) for name in COUNTED}
        nothing = dict.fromkeys(COUNTED, lambda *_: None)
        turns: dict[str, list[float]] = {"with": [], "without": []}
        for _ in range(rounds + 2):  # the first two warm up
            for side, methods in (("with", counting), ("without", nothing)):
                for name, method in methods.items():
                    setattr(app.state.door.tallies, name, method)
                turns[side].append(await _turn_ms(app, picture))
    sides = {f"{side}_ms": statistics.median(times[2:]) for side, times in turns.items()}
    pairs = [a - b for a, b in zip(turns["with"][2:], turns["without"][2:], strict=True)]
    return sides | {"added_ms": statistics.median(pairs), "calls": rounds * ROUND, "budget_ms": BUDGET_MS}


async def _turn_ms(app: FastAPI, picture: bytes) -> float:
    started = thread_time()
    for _ in range(ROUND):
        await _call(app, picture)
    return (thread_time() - started) / ROUND * 1000


async def _call(app: FastAPI, picture: bytes) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/predict",
             "raw_path": b"/predict", "query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 80),
             "client": ("localhost", 1), "headers": [(b"content-type", b"image/jpeg"),
                                                     (b"content-length", str(len(picture)).encode())]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": picture, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"Expected status 200, got {message['status']}.")

    await app(scope, receive, send)


if __name__ == "__main__":
    raise SystemExit(main())
