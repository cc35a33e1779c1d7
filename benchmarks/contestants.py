"""The servers that are compared: ours, and each folder of peers/, installed into an environment of its own from its lock."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import Target, family
from benchmarks.predict import BOUNDARY, SERVE

ROOT = Path(__file__).parent.parent
PEERS, OURS_FOLDER = ROOT / "benchmarks/peers", ROOT / "benchmarks/ours"
WORK = ROOT / "var/bench/peers"
READY_S, STOP_S = 90, 20
POLL_S = 0.02
CONFIDENCE_TOLERANCE = 1e-4
SERVE_TUNED = f"""
import os
from onprem import batching
batching.MAX_BATCH = int(os.environ["OURS_BATCH"])
batching.COMPANY_S = float(os.environ["OURS_WAIT_MS"]) / 1000
{SERVE}
"""
Expected = tuple[int, str, float]  # index, label, confidence


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A server, how it is started, and how it is asked. In `command`, `path` and the settings, {port} stands for the port and
    {NAME} for a setting; {port2} is another free port. tuned: precision -> settings that the sweep found best. sweep: stages,
    each a list of settings to try over the best ones so far."""

    name: str
    title: str
    command: Sequence[str]
    folder: Path
    python: Path
    path: str = "/predict"
    field: str = "file"
    default: Mapping[str, str]
    tuned: Mapping[str, Mapping[str, str]]
    sweep: Sequence[Sequence[Mapping[str, str]]] = ()

    def settings(self, precision: str) -> dict[str, str]:
        """What it runs with at that precision."""
        return {**self.default, **self.tuned.get(precision, {})}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers. ready_s: from the start of its process to its first answer."""

    target: Target
    pid: int
    ready_s: float


OURS = Contestant(name="ours", title="Shutterless", command=("python", "-c", SERVE), folder=ROOT, python=Path(sys.executable),
                  default={"SHUTTERLESS_PORT": "{port}"}, tuned={})


def peers() -> list[Contestant]:
    """In the order of their names; none is installed by this."""
    names = [path.parent.name for path in sorted(PEERS.glob("*/peer.json"))]
    return [_described(PEERS / name, WORK / name / "bin/python") for name in names]


def ours_to_tune() -> Contestant:
    """Our server, where what is fixed in its code is a setting."""
    return replace(_described(OURS_FOLDER, OURS.python), command=("python", "-c", SERVE_TUNED))


def _described(folder: Path, python: Path) -> Contestant:
    return Contestant(name=folder.name, folder=folder, python=python, **json.loads((folder / "peer.json").read_text()))


def install(peer: Contestant, say: Callable[[str], object]) -> None:
    """Make the peer's environment, unless it was made from this very lock. Takes about half a minute with a warm cache."""
    lock, home = peer.folder / "requirements.txt", peer.python.parent.parent
    stamp, wanted = home / "lock.sha256", hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say(f"installing {peer.title}")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", peer.python, "--no-deps", "--require-hashes",
                    "--only-binary", ":all:", "--compile-bytecode", "-r", lock], check=True)
    stamp.write_text(wanted)


@contextmanager
def running(contestant: Contestant, bundle: Path, settings: Mapping[str, str], picture: bytes) -> Iterator[Running]:
    """The server in new processes, from its first answer to `picture` on; all of them are ended afterwards. Raises SystemExit
    with the end of its log where it does not come up."""
    ports = {"port": str(free_port()), "port2": str(free_port())}
    filled = {name: value.format(**ports) for name, value in settings.items()}
    command = [part.format(**ports, **filled) if contestant is not OURS else part for part in contestant.command]
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        started = time.perf_counter()
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=contestant.folder, stdout=file, stderr=subprocess.STDOUT,
                                       env=environment(contestant, bundle, Path(scratch)) | filled, start_new_session=True)
        target = Target(url=f"http://127.0.0.1:{ports['port']}", path=contestant.path.format(**filled), field=contestant.field)
        try:
            while (reason := refusal(target, picture)) is not None:
                if process.poll() is not None or time.perf_counter() - started > READY_S:
                    raise SystemExit(f"Expected {contestant.title} to answer within {READY_S} s, got: {reason}\n"
                                     f"{log.read_text()[-3000:]}")
                time.sleep(POLL_S)
            yield Running(target=target, pid=process.pid, ready_s=time.perf_counter() - started)
        finally:
            end(process)


def environment(contestant: Contestant, bundle: Path, scratch: Path) -> dict[str, str]:
    """The caller's, less its settings for Shutterless and for OpenMP, with the peer's own programs first."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SHUTTERLESS_", "PEER_", "OURS_", "OMP_", "MLSERVER_", "BENTOML_"))
            and name not in ("DATABASE_URL", "MODEL_URI")}
    path = os.pathsep.join([str(contestant.python.parent), kept.get("PATH", "")])
    ours = {"MODEL_URI": str(bundle), "SHUTTERLESS_VAR_DIR": str(scratch / "var")}
    theirs = {"PEER_BUNDLE": str(bundle), "BENTOML_HOME": str(scratch / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT)} | (ours if contestant.name == OURS.name else theirs)


def end(process: subprocess.Popen[bytes]) -> None:
    """First in peace, then by force; its children too, some of which are in sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        every = family(process.pid)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        for left in every:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        psutil.wait_procs(every, STOP_S)
    process.wait()


def end_in_peace() -> None:
    """Let SIGTERM end a benchmark as Ctrl-C does, so that it leaves no server behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def refusal(target: Target, picture: bytes) -> str | None:
    """Why there is no answer, or None where there is one."""
    try:
        ask(target, picture)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None


def ask(target: Target, picture: bytes) -> dict[str, Any]:
    """One answer over a connection of its own. Raises OSError or HTTPException where there is none."""
    place = target.url.removeprefix("http://")
    _, _, body = target.request(picture).partition(b"\r\n\r\n")
    with closing(http.client.HTTPConnection(place, timeout=30)) as connection:
        connection.request("POST", target.path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
        answered = connection.getresponse()
        content = answered.read()
    if answered.status != 200:
        raise http.client.HTTPException(f"{answered.status}: {content[:500].decode(errors='replace')}")
    answer = json.loads(content)
    return dict(answer[0] if isinstance(answer, list) else answer)


def check_answers(title: str, answers: Sequence[Mapping[str, Any]], expected: Sequence[Expected]) -> None:
    """A benchmark of a wrong server is worth nothing: raises SystemExit unless each answer has the index, the label and, to 1e-4,
    the confidence that our core gives that picture."""
    got = [(answer.get("pred_index"), answer.get("label"), answer.get("confidence", math.nan)) for answer in answers]
    wrong = [(i, want, have) for i, (want, have) in enumerate(zip(expected, got, strict=True))
             if want[:2] != have[:2] or not abs(want[2] - have[2]) <= CONFIDENCE_TOLERANCE]
    if wrong:
        i, want, have = wrong[0]
        raise SystemExit(f"{title}: expected the answers of our core, got {len(wrong)} others of {len(expected)}; the first is "
                         f"picture {i}: {have} instead of {want}. Its figures would be of another model.")
