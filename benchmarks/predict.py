"""How fast the on-prem door starts, and how much it adds to what one picture costs.

    python -m benchmarks.predict --model eurosat-lite0

Starts the server in new processes, and measures (a) process start to first answered POST /predict, (b) POST /predict at
one client over one kept-alive connection, and (c) the floor: decode, preprocess and session.run of the same picture in
this process. (b) and (c) take turns, so that both meet the same noise; the CPU time of each, which other programs disturb
less, stands beside them. With --url, (b) asks a server that runs already, whose CPU time is not known.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
from PIL import Image

from shutterless.pictures import decode
from shutterless.preprocessing import to_pixels
from shutterless.settings import Settings
from shutterless.shelf import Shelf

ROUND = 50  # requests in a row before the floor has its turn
WARM_UP = 50
BUDGET_MS = 2.0
BOUNDARY = "picture-boundary"
SERVE = "import os; from onprem.server import serve; from shutterless.settings import Settings; " \
        "serve(Settings.from_environment(os.environ))"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both forms of the report."""
    options = _options(arguments)
    picture = drawn_jpeg(options.side)
    settings = replace(Settings.from_environment(os.environ), **{"model": options.model} if options.model else {})
    floor = floor_of(settings, picture)
    starts_s = [] if options.url else [start_s(settings, picture) for _ in range(options.starts)]
    if options.url:
        server_ms, floor_ms, cpu_ms = take_turns(options.url, picture, floor, options.requests)
    else:
        with running(settings) as (url, pid):
            server_ms, floor_ms, cpu_ms = take_turns(url, picture, floor, options.requests, pid)
    report = heading("predict", arguments) | {
              "model": settings.model, "picture_bytes": len(picture), "picture_side": options.side,
              "start_s": summary(starts_s), "predict_ms": summary(server_ms), "floor_ms": summary(floor_ms),
              "cpu_ms": cpu_ms}
    report["added_p50_ms"] = round(report["predict_ms"]["p50"] - report["floor_ms"]["p50"], 3)
    print_table(report)
    print(json.dumps(report))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="bundle, as NAME or NAME/VERSION; default: SHUTTERLESS_MODEL")
    parser.add_argument("--url", help="ask this server, instead of starting one")
    parser.add_argument("--starts", type=int, default=7, help="processes to start (%(default)s)")
    parser.add_argument("--requests", type=int, default=1000, help="requests to measure (%(default)s)")
    parser.add_argument("--side", type=int, default=64, help="side of the JPEG in pixels (%(default)s)")
    return parser.parse_args(arguments)


def drawn_jpeg(side: int, seed: int = 0) -> bytes:
    """The same picture every time for a seed: smooth patches with a little noise, about as hard to compress as a photo."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((side, side))
    pixels = np.asarray(patches, dtype=np.int16) + random.integers(-8, 9, (side, side, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def floor_of(settings: Settings, picture: bytes) -> Callable[[], object]:
    """What no server can do without, as a call."""
    classifier = Shelf(settings, threads=settings.server_threads).default  # with as many threads as the server's
    spec = classifier.bundle.manifest.input
    return lambda: classifier.classify(to_pixels(decode(picture), spec)[None])


@contextmanager
def running(settings: Settings) -> Iterator[tuple[str, int]]:
    """A server in a new process with a state of its own; its address, as soon as it answers, and its process id."""
    with tempfile.TemporaryDirectory() as var_dir:
        environ = os.environ | {"SHUTTERLESS_PORT": "0", "SHUTTERLESS_MODEL": settings.model,
                                "SHUTTERLESS_VAR_DIR": var_dir, "SHUTTERLESS_API_KEYS": "", "DATABASE_URL": "",
                                "SHUTTERLESS_OBJECTS": ""}
        process = subprocess.Popen([sys.executable, "-c", SERVE], env=environ, stdout=subprocess.PIPE, text=True)
        try:
            said = process.stdout.readline() if process.stdout else ""
            if not said.startswith("Listening on "):
                raise SystemExit("Expected a server that says where it listens, got none. Its reason stands above.")
            yield said.split()[-1], process.pid
        finally:
            process.terminate()
            process.wait()


def start_s(settings: Settings, picture: bytes) -> float:
    """Seconds from the start of a new process to its first answer."""
    started = perf_counter()
    with running(settings) as (url, _):
        ask = asking(url, picture)
        ask()
        return perf_counter() - started


def asking(url: str, picture: bytes) -> Callable[[], bytes]:
    """POST /predict as multipart over one kept-alive connection, as a call.

    The request is laid out once and sent in one piece, as load generators do: http.client alone would cost half a
    millisecond a call, which is not the server's.
    """
    place = urlsplit(url)
    connection = socket.create_connection((place.hostname or "localhost", place.port or 80), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="tile.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n").encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    keys = os.environ.get("SHUTTERLESS_API_KEYS", "").split(",")
    head = (f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {len(body)}\r\n" + (f"x-api-key: {keys[0].strip()}\r\n" if keys[0].strip() else "") + "\r\n")
    request = head.encode() + body

    def ask() -> bytes:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += _some(connection)
        answered, _, answer = received.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in answered.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(answer) < length:
            answer += _some(connection)
        if not answered.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"Expected status 200 from {url}/predict, got: {answer.decode()}")
        return answer
    return ask


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(65_536)
    if not received:
        raise SystemExit("Expected an answer, got a closed connection. Look at the server's standard error.")
    return received


def take_turns(url: str, picture: bytes, floor: Callable[[], object], requests: int, pid: int | None = None,
               ) -> tuple[list[float], list[float], dict[str, float]]:
    """Milliseconds of `requests` calls each, of the server and of the floor; and of CPU per call, where `pid` is known."""
    ask = asking(url, picture)
    for _ in range(WARM_UP):
        ask()
        floor()
    server_ms: list[float] = []
    floor_ms: list[float] = []
    server_cpu_s, floor_cpu_s = -cpu_s(pid), 0.0
    while len(server_ms) < requests:
        server_ms += [milliseconds(ask) for _ in range(ROUND)]
        floor_cpu_s -= process_time()
        floor_ms += [milliseconds(floor) for _ in range(ROUND)]
        floor_cpu_s += process_time()
    server_cpu_s += cpu_s(pid)
    spent_ms = {"predict": 1000 * server_cpu_s / len(server_ms), "floor": 1000 * floor_cpu_s / len(floor_ms)}
    return server_ms, floor_ms, {name: round(each, 3) for name, each in spent_ms.items()} if pid else {}


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that a process has had; 0 without one."""
    if pid is None:
        return 0.0
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def milliseconds(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return (perf_counter() - started) * 1000


def summary(values: list[float]) -> dict[str, float]:
    """Count and percentiles; empty for none."""
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"n": len(values), "p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}


def heading(benchmark: str, arguments: Sequence[str] | None) -> dict[str, Any]:
    """How each report begins: what was measured, when, by which command and where."""
    return {"benchmark": benchmark, "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join([f"python -m benchmarks.{benchmark}", *(arguments or sys.argv[1:])]), "machine": machine()}


def machine() -> dict[str, Any]:
    """What a figure is worth nothing without."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(), "cpus": os.cpu_count(), "load_1m": os.getloadavg()[0],
            "python": platform.python_version(), "system": platform.system()}


def print_table(report: dict[str, Any]) -> None:
    where = report["machine"]
    print(f"{where['cpu']}, {where['cpus']} CPUs, load {where['load_1m']:.1f}, Python {where['python']}")
    print(f"model {report['model']}, JPEG of {report['picture_side']} px, {report['picture_bytes']:,} bytes\n")
    print(f"{'':38}{'n':>6}{'p50':>10}{'p95':>10}{'p99':>10}")
    for name, key, unit in (("process start to first answer", "start_s", "s"),
                            ("POST /predict, one client", "predict_ms", "ms"),
                            ("decode + preprocess + session.run", "floor_ms", "ms")):
        if report[key]:
            figures = "".join(f"{report[key][p]:>8.2f} {unit}" if unit == "s" else f"{report[key][p]:>7.2f} {unit}"
                              for p in ("p50", "p95", "p99"))
            print(f"{name:38}{report[key]['n']:>6}{figures}")
    if report["cpu_ms"]:
        print(f"CPU per call: server {report['cpu_ms']['predict']:.2f} ms, floor {report['cpu_ms']['floor']:.2f} ms")
    print(f"\nThe server adds {report['added_p50_ms']:.2f} ms at p50 (budget: {BUDGET_MS:.1f} ms).")


if __name__ == "__main__":
    raise SystemExit(main())
