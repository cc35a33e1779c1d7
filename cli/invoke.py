"""Invoke a function in its container, under AWS's runtime interface emulator, and print its answer.

It needs an image (`shutterless images`) and no credentials. The answer goes to standard output, the function's log and the
commands that do the same by hand to standard error. The container is removed afterwards.

examples:
  shutterless invoke events/predict.json
  shutterless invoke - --port 9001
  shutterless invoke events/predict.json --model my-model
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from cli.images import bundle_in_models, docker_platform, is_there
from infra.sources import ROOT
from shutterless.errors import BadRequest, BadSettings, Unavailable

IMAGE = "shutterless-inference"
PATH = "/2015-03-31/functions/function/invocations"
START_S, ANSWER_S = 30, 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The event, and where the emulator listens."""
    parser.add_argument("event", metavar="EVENT", help="a JSON file, - for standard input (shutterless event writes one)")
    parser.add_argument("--port", type=int, default=9000, metavar="PORT", help="of this machine, TCP (default: 9000)")
    parser.add_argument("--model", metavar="MODEL", help="a bundle of models/ instead of the one that is baked in")


def run(arguments: argparse.Namespace) -> int:
    """Start, ask, print, remove."""
    event = _read(arguments.event)
    docker_platform()
    if not is_there(IMAGE):
        raise BadSettings(f"There is no image {IMAGE} yet. Make it: make images.")
    url = f"http://localhost:{arguments.port}{PATH}"
    command = ["docker", "run", "--rm", "--publish", f"127.0.0.1:{arguments.port}:8080", *_mounted(arguments.model), IMAGE]
    print(f"$ {' '.join(command)}\n$ curl --data-binary @{arguments.event} {url}", file=sys.stderr)
    container = _start(command)
    try:
        print(json.dumps(json.loads(_ask(url, event, container)), indent=2, ensure_ascii=False))
    finally:
        subprocess.run(["docker", "logs", container], stdout=sys.stderr, check=False)
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)
    return 0


def _read(event: str) -> bytes:
    try:
        text = sys.stdin.buffer.read() if event == "-" else Path(event).read_bytes()
        json.loads(text)
    except OSError as error:
        raise BadRequest(f"Expected a JSON file, got {event}, which cannot be read. Give the path of one.") from error
    except ValueError as error:
        raise BadRequest(f"Expected JSON in {event}, got something else. `shutterless event PICTURE` writes an event.") from error
    return text


def _mounted(model: str | None) -> list[str]:
    """Options that put a bundle of this folder where the container looks for it."""
    if model is None:
        return []
    return ["--volume", f"{ROOT / 'models'}:/var/task/models:ro", "--env", f"SHUTTERLESS_MODEL={bundle_in_models(model)}"]


def _start(command: list[str]) -> str:
    """The id of the container, which stays when it ends, so that its log can be read."""
    started = subprocess.run(["docker", "run", "--detach", *command[3:]], capture_output=True, text=True, check=False)
    if started.returncode:
        raise BadSettings(f"The container does not start: {started.stderr.strip()}")
    return started.stdout.strip()


def _ask(url: str, event: bytes, container: str) -> bytes:
    """The function's answer. Docker's proxy takes a connection before the emulator does: then it is closed without a word."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, event), timeout=ANSWER_S) as answer:  # noqa: S310  http
                content: bytes = answer.read()
                return content
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > deadline or not _is_running(container):
                raise Unavailable("The function gives no answer. Its log says why.") from error
            time.sleep(0.05)


def _is_running(container: str) -> bool:
    asked = subprocess.run(["docker", "inspect", "--format", "{{.State.Running}}", container], capture_output=True, check=False)
    return asked.stdout.strip() == b"true"
