"""The emulator as a process of its own: started on a free port, stopped by its id, and all its containers with it."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from rehearsal.docker_client import remove_containers
from rehearsal.processes import marked
from shutterless.errors import BadSettings

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "var/rehearsal/venv/bin/python"
PORT = 4566  # what tools for emulators of AWS expect
START_S, STOP_S = 60.0, 20.0
REGION, KEY = "us-east-1", "test"
CONCURRENCY = 10  # invocations at once, as in a new account; without a limit, a crowd starts hundreds of containers


@dataclass(frozen=True)
class Place:
    """Where an emulator listens. address: of this machine, as containers see it."""

    address: str
    port: int

    @property
    def url(self) -> str:
        """For programs on this machine. An address and no name, so that S3's buckets stand in the path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_for_containers(self) -> str:
        """For functions; it answers on this machine too, so that what they sign works for their clients."""
        return f"http://{self.address}:{self.port}"

    @property
    def label(self) -> str:
        """On every container that the emulator starts."""
        return f"ministack.instance={INSTANCE}:{self.port}"

    def environment(self) -> dict[str, str]:
        """For programs that shall take it for AWS."""
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ENDPOINT_URL_S3": self.url, "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": KEY, "AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION,
                "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


INSTANCE = f"shutterless-rehearsal-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"  # another folder may rehearse too


@contextmanager
def free_place(address: str) -> Iterator[Place]:
    """PORT where nobody listens on it, else any free port; while this lasts, no other program gets it."""
    for port in (PORT, 0):
        with ExitStack() as held:
            try:
                first = held.enter_context(socket.create_server(("127.0.0.1", port)))
                place = Place(address, first.getsockname()[1])
                held.enter_context(socket.create_server((address, place.port)))
            except OSError:
                continue
            yield place
            return
    raise BadSettings(f"No port is free on both 127.0.0.1 and {address}.")


def start(place: Place, folder: Path, postgres: str) -> subprocess.Popen[bytes]:
    """Start it, wait until it answers. What it writes goes into `folder`, its log to `folder`/emulator.log.

    It is in a process group of its own: Ctrl-C is the driver's, which ends it when all else is taken away.
    """
    if not PYTHON.is_file():
        raise BadSettings("The emulator's environment is not there. `make rehearse` makes it.")
    scratch = folder / "emulator"
    scratch.mkdir(parents=True)
    environment = {**place.environment(), "AWS_ENDPOINT_URL": place.url_for_containers,
                   "AWS_ENDPOINT_URL_S3": place.url_for_containers, "GATEWAY_PORT": str(place.port),
                   "MINISTACK_HOST": place.address, "MINISTACK_HOSTNAME": INSTANCE, "TMPDIR": str(scratch),
                   "STATE_DIR": str(scratch / "state"), "S3_DATA_DIR": str(scratch / "s3"),
                   "PERSIST_STATE": "0", "LAMBDA_ACCOUNT_CONCURRENCY": str(CONCURRENCY),
                   "REHEARSAL_BIND": f"127.0.0.1:{place.port},{place.address}:{place.port}",
                   "REHEARSAL_POSTGRES": postgres}
    remove_containers(place.label)
    with (folder / "emulator.log").open("ab") as log:
        process = subprocess.Popen([PYTHON, "-m", "rehearsal.emulator"], cwd=ROOT, env=marked(folder, environment),
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_it_answers(place, process, folder / "emulator.log")
    except BaseException:  # raised again: an interruption leaves nothing running either
        stop(place, process)
        raise
    return process


def stop(place: Place, process: subprocess.Popen[bytes]) -> None:
    """End it, by force where it does not end, and take its containers away."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    remove_containers(place.label)


def _wait_until_it_answers(place: Place, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BadSettings(f"The emulator ended at start:\n{end_of(log)}")
        try:
            with urlopen(f"{place.url}/_ministack/health", timeout=2):  # noqa: S310  our own address
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise BadSettings(f"The emulator does not answer within {START_S:.0f} s:\n{end_of(log)}")


def end_of(log: Path, lines: int = 15) -> str:
    """"" where there is none yet."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


if __name__ == "__main__":
    sys.exit("Run: python -m rehearsal")
