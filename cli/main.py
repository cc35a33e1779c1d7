"""Runs one command; what goes wrong becomes one sentence on standard error and an exit code."""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import shutterless
from cli import (
    bench,
    check,
    check_signature,
    cost,
    deploy,
    destroy,
    doctor,
    event,
    export,
    graph,
    images,
    invoke,
    logs,
    models,
    optimise,
    parity,
    predict,
    psql,
    publish,
    quantize,
    redrive,
    report,
    send,
    serve,
    sign,
    synth,
    train,
)
from shutterless.errors import ShutterlessError

# A command is a module: its docstring is its --help, add_arguments(parser) declares what it takes, run(arguments) does
# it and returns the exit code. What it drives is imported in `run`, so that --help and a typing error cost nothing.
GROUPS: tuple[tuple[str, tuple[ModuleType, ...]], ...] = (
    ("Ask a model", (predict, models, check, bench)),
    ("Serve it", (serve, send)),
    ("In containers, as on AWS", (images, event, invoke)),
    ("On AWS", (cost, doctor, synth, deploy, logs, redrive, psql, destroy)),
    ("Make one", (train, export, optimise, sign, check_signature, publish)),
    ("Steps of export, one at a time", (graph, parity, quantize, report)),
)
ABOUT = "A trained vision model as an image API: on your machine, and from this command line."
EPILOG = """\
examples:
  shutterless predict tile.jpg                    one picture
  shutterless predict --json pictures/ | jq .     a folder, one JSON object a line
  shutterless serve --port 8000                   the API and its page, http://127.0.0.1:8000
  shutterless predict --model my-model tile.jpg   another bundle of the models folder

Settings come from the options, else from the environment, else from the file .env; .env.example lists them.
Exit codes: 0 done, 1 not all could be done (standard error says what and why), 2 typed wrongly, 130 interrupted."""


UNUSABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # a place of the user's, no fault of ours
OURS = ("shutterless", "cli", "onprem", "lambdas", "model_export", "benchmarks", "infra")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse `argv` (default: the process's), run the command, return its exit code. --help and typing errors exit."""
    arguments = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except ShutterlessError as error:
        print(f"shutterless: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in OURS:
            raise
        print(f"shutterless: this command needs the package {package}, which is not installed. Run: make install-export",
              file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read the output has left (`| head`): that is their right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        print(f"shutterless: {error.filename or 'A file'}: {error.strerror}. Make room there, correct its rights, or choose "
              "another folder.", file=sys.stderr)
        return 1
    return code


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, from the commands in GROUPS."""
    parser = argparse.ArgumentParser(prog="shutterless", usage="%(prog)s [--help] [--version] COMMAND ...",
                                     description=_overview(), epilog=EPILOG,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"shutterless {shutterless.__version__}")
    commands = parser.add_subparsers(prog="shutterless", metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for _, members in GROUPS:
        for command in members:
            child = commands.add_parser(_name(command), description=command.__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)
            command.add_arguments(child)
            child.set_defaults(run=command.run)
    return parser


def _overview() -> str:
    lines = [ABOUT]
    for title, members in GROUPS:
        lines += ["", f"{title}:", *(f"  {_name(command):<17}{_summary(command)}" for command in members)]
    return "\n".join([*lines, "", "shutterless COMMAND --help tells all about one of them."])


def _name(command: ModuleType) -> str:
    return command.__name__.rpartition(".")[2].replace("_", "-")


def _summary(command: ModuleType) -> str:
    return (command.__doc__ or "").partition("\n")[0].rstrip(".")
