"""Serve the API and its page on this machine.

The same routes as on AWS, with files and SQLite in var/ unless DATABASE_URL and SHUTTERLESS_OBJECTS say otherwise. It
is ready when it says so; Ctrl-C ends it after the requests that are under way. Every other setting is an environment
variable: see .env.example.

examples:
  shutterless serve
  shutterless serve --port 9000 --model my-model/2
  shutterless serve --host 0.0.0.0 --workers 4      for other machines too: set SHUTTERLESS_API_KEYS first
"""

from __future__ import annotations

import argparse

from cli.environment import add_model_option, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Numbers stay text here: Settings checks them, with the same sentence as for the environment."""
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", help="TCP port; 0 takes a free one (default: 8000)")
    add_model_option(parser)
    parser.add_argument("--workers", metavar="N", help="pictures inferred at the same time (default: usable CPUs)")
    parser.add_argument("--threads", metavar="N",
                        help="threads of one inference (default: 1; for a slow network as many as CPUs, 4 at most)")


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    settings = read_settings(model=arguments.model, SHUTTERLESS_HOST=arguments.host, SHUTTERLESS_PORT=arguments.port,
                             SHUTTERLESS_WORKERS=arguments.workers, SHUTTERLESS_THREADS=arguments.threads)
    from onprem.server import serve

    serve(settings)
    return 0
