"""`python -m rehearsal.emulator`: the emulator, completed, on the addresses of REHEARSAL_BIND until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib import import_module

from rehearsal.emulator import SERVICES, pinned


def main() -> None:
    """Refuse an emulator other than the one that was read; else complete it and serve."""
    changes = list(pinned.changes())
    if changes:
        sys.exit("\n".join(changes))
    for service in SERVICES:
        import_module(f"rehearsal.emulator.{service}").complete()
    serve(os.environ["REHEARSAL_BIND"].split(","))


def serve(addresses: list[str]) -> None:
    """On each "host:port", and on no other: what can be reached here starts containers for whoever asks."""
    from hypercorn.asyncio import serve as serve_app
    from hypercorn.config import Config
    from ministack.app import app

    config = Config()
    config.bind = addresses
    config.keep_alive_timeout = 75
    asyncio.run(serve_app(app, config))


if __name__ == "__main__":
    main()
