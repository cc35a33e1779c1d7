"""What a server does under load: N clients, each of which asks again as soon as it has its answer.

    python -m benchmarks.load                                             # our server, started for it
    python -m benchmarks.load --url http://localhost:8000 --pid 4711      # any server; --pid tells its CPU time and memory
    python -m benchmarks.load --null                                      # what this generator costs by itself

Multipart JPEGs of 64x64 over kept-alive HTTP/1.1, one connection a client: tiles of EuroSAT where --pictures or
$SHUTTERLESS_DATA has EuroSAT.zip, else drawn ones. All clients live in one thread, as protocols of uvloop: requests are laid out
beforehand, and of an answer only status and length are read. What that costs (--null measures it alone) is
printed beside what the server spent.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import psutil
import uvloop

from benchmarks.predict import BOUNDARY, drawn_jpeg, heading, running
from shutterless.settings import Settings

PICTURES = 50
PAUSE_S = 0.05  # before a client that was refused asks again
LAST_ANSWER_S = 60
NULL = "from benchmarks.load import serve_null; serve_null()"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where pictures go: a server's address, and how it calls the route and the form's field."""

    url: str
    path: str = "/predict"
    field: str = "file"
    key: str = ""

    def request(self, picture: bytes) -> bytes:
        """The whole request of one picture."""
        body = (f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{self.field}"; filename="tile.jpg"\r\n'
                "Content-Type: image/jpeg\r\n\r\n").encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
        head = (f"POST {self.path} HTTP/1.1\r\nHost: {urlsplit(self.url).netloc}\r\n"
                f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n")
        return (head + (f"x-api-key: {self.key}\r\n" if self.key else "") + "\r\n").encode() + body


@dataclass
class Tally:
    """What clients saw between two moments: seconds of each good answer, and how many others there were, by reason."""

    taken_s: list[float] = dataclass_field(default_factory=list)
    errors: Counter[str] = dataclass_field(default_factory=Counter)
    counting: bool = False
    over: bool = False


class Client(asyncio.Protocol):
    """One closed loop over one connection."""

    def __init__(self, target: Target, requests: Sequence[bytes], tally: Tally, first: int = 0) -> None:
        self._place = urlsplit(target.url)
        self._requests, self._tally, self._next = requests, tally, first
        self._loop = asyncio.get_running_loop()
        self.done = self._loop.create_future()

    async def connect(self) -> None:
        """Raises OSError where nobody listens."""
        await self._loop.create_connection(lambda: self, self._place.hostname or "localhost", self._place.port or 80)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received, self._expected = b"", 0  # bytes of the answer: so far, and in all once its head is there
        self._status, self._is_last = "connection closed", False
        self._ask()

    def _ask(self) -> None:
        if self._tally.over or self._transport.is_closing():
            self._transport.close()
            return
        self._next += 1
        self._asked = perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])

    def data_received(self, received: bytes) -> None:
        self._received = self._received + received if self._received else received
        if not self._expected and not self._read_head():
            return
        if len(self._received) >= self._expected:
            self._answered()

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._received[:end].lower()
        self._status = head[9:12].decode()
        self._is_last = b"\r\nconnection: close" in head
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            self._status = "no Content-Length"
            self._transport.abort()
            return False
        self._expected = end + 4 + int(head[at + 17:].split(b"\r\n", 1)[0])
        return True

    def _answered(self) -> None:
        taken_s, status = perf_counter() - self._asked, self._status
        self._received, self._expected, self._status = b"", 0, "connection closed"
        if status == "200":
            if self._tally.counting:
                self._tally.taken_s.append(taken_s)
        else:
            self._failed(status)
        if self._is_last:  # as the server said: no fault
            self._transport.close()
        elif status == "200":
            self._ask()
        else:
            self._loop.call_later(PAUSE_S, self._ask)

    def _failed(self, reason: str) -> None:
        if self._tally.counting:
            self._tally.errors[reason] += 1

    def connection_lost(self, error: Exception | None) -> None:
        if not self._tally.over:
            if not self._is_last:
                self._failed(self._status)
            self._loop.call_later(PAUSE_S, self._return)
        elif not self.done.done():
            self.done.set_result(None)

    def _return(self) -> None:
        self._way_back = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        while not self._tally.over:
            try:
                return await self.connect()
            except OSError:
                self._failed("no connection")
                await asyncio.sleep(PAUSE_S)
        self.done.set_result(None)


def load(target: Target, pictures: Sequence[bytes], *, clients: int, seconds: float, warm_up_s: float = 1.0,
         pid: int | None = None) -> dict[str, Any]:
    """The server under `clients` for `seconds`, after `warm_up_s` that are not counted. With the server's process id, its CPU
    time and peak memory too, those of its children included. Raises SystemExit where it cannot be reached."""
    try:
        return uvloop.run(_drive(target, pictures, clients, seconds, warm_up_s, pid))
    except OSError as error:
        raise SystemExit(f"Expected a server at {target.url}, got: {error}. Start it first.") from None


async def _drive(target: Target, pictures: Sequence[bytes], clients: int, seconds: float, warm_up_s: float,
                 pid: int | None) -> dict[str, Any]:
    tally = Tally()
    requests = [target.request(picture) for picture in pictures]
    protocols = [Client(target, requests, tally, i) for i in range(clients)]
    for protocol in protocols:
        await protocol.connect()
    await asyncio.sleep(warm_up_s)
    gc.collect()
    gc.disable()  # a collection would be counted as the server's slowness
    spent, before = {"server": -cpu_s(pid), "client": -process_time()}, psutil.cpu_times()
    started, tally.counting = perf_counter(), True
    await asyncio.sleep(seconds)
    tally.counting = False
    lasted_s = perf_counter() - started
    gc.enable()
    spent = {"server": spent["server"] + cpu_s(pid), "client": spent["client"] + process_time()}
    stolen, peak_mb = stolen_share(before, psutil.cpu_times()), peak_memory_mb(pid)
    tally.over = True
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(protocol.done for protocol in protocols)), LAST_ANSWER_S)
    found = summary(tally, clients, lasted_s, spent if pid else {"client": spent["client"]}, peak_mb)
    return found if stolen is None else found | {"stolen": round(stolen, 4)}


def summary(tally: Tally, clients: int, lasted_s: float, cpu: dict[str, float], peak_mb: float | None) -> dict[str, Any]:
    """JSON's types only; percentiles and CPU are milliseconds, the latter per good answer."""
    n = len(tally.taken_s)
    found: dict[str, Any] = {"clients": clients, "seconds": round(lasted_s, 3), "n": n, "requests_s": round(n / lasted_s, 2),
                             "errors": dict(tally.errors)}
    if n:
        p50, p95, p99 = 1000 * np.percentile(tally.taken_s, (50, 95, 99))
        found |= {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "p99_ms": round(float(p99), 3)}
        found |= {"cpu_ms": {who: round(1000 * spent_s / n, 4) for who, spent_s in cpu.items()}}
    return found | ({} if peak_mb is None else {"peak_mb": round(peak_mb, 1)})


def stolen_share(before: Any, after: Any) -> float | None:
    """Of all CPU time between two looks, what a hypervisor gave to other machines; None where the system does not tell."""
    if not hasattr(after, "steal"):
        return None
    everything = sum(after[:8]) - sum(before[:8])  # a guest's time is in the user's already
    return (after.steal - before.steal) / everything if everything > 0 else 0.0


def family(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that a server's processes have had; 0 without one."""
    total = 0.0
    for process in family(pid) if pid else ():
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def peak_memory_mb(pid: int | None) -> float | None:
    """Megabytes that each of a server's processes had at its peak, summed (so what they share counts in each); where the
    system does not tell the peak, what they have now."""
    if pid is None:
        return None
    total = 0.0
    for process in family(pid):
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            status = Path(f"/proc/{process.pid}/status")
            peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")] \
                if status.exists() else []
            total += int(peaks[0]) * 1024 / 1e6 if peaks else process.memory_info().rss / 1e6
    return total


def some_pictures(source: Path | None = None, count: int = PICTURES) -> tuple[str, list[bytes]]:
    """What they are, and `count` JPEGs: drawn by lot from EuroSAT's zip (`source`, or in $SHUTTERLESS_DATA), always the same
    ones; or, where there is none, drawn by us."""
    if source is None and "SHUTTERLESS_DATA" in os.environ:
        source = Path(os.environ["SHUTTERLESS_DATA"]) / "EuroSAT.zip"
        source = source if source.is_file() else None
    if source is None:
        return "drawn", [drawn_jpeg(64, seed) for seed in range(count)]
    with zipfile.ZipFile(source) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        return source.name, [file.read(name) for name in random.Random(0).sample(names, count)]  # noqa: S311  no secret


class Null(asyncio.Protocol):
    """A server that does nothing but answer; requests must come one at a time, with a Content-Length."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._missing = 0

    def data_received(self, received: bytes) -> None:
        if not self._missing:
            head, _, _ = received.partition(b"\r\n\r\n")
            self._missing = len(head) + 4 + int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        self._missing -= len(received)
        if self._missing <= 0:
            self._missing = 0
            self._transport.write(self.ANSWER)


def serve_null() -> None:
    """Runs until it is ended; says where first."""
    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", 0)
        print(f"Listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()
    uvloop.run(serve())


@contextmanager
def null_server() -> Iterator[tuple[str, int]]:
    """In a process of its own; address and process id."""
    process = subprocess.Popen([sys.executable, "-c", NULL], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101  for mypy
        yield process.stdout.readline().split()[-1], process.pid
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def served(options: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """The server that the options ask for."""
    if options.url:
        yield options.url, options.pid
        return
    settings = Settings.from_environment(os.environ | ({"SHUTTERLESS_MODEL": options.model} if options.model else {}))
    with null_server() if options.null else running(settings) as (url, pid):
        yield url, pid


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both forms of the report."""
    options = _options(arguments)
    source, pictures = some_pictures(options.pictures)
    with served(options) as (url, pid):
        target = Target(url=url, path=options.path, field=options.field, key=options.key)
        loads = [load(target, pictures, clients=clients, seconds=options.seconds, warm_up_s=options.warm_up, pid=pid)
                 for clients in options.clients]
    report = heading("load", arguments) | {"pictures": source, "loads": loads}
    for line in table(loads):
        print(line)
    print(json.dumps(report))
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="ask this server, instead of starting one")
    parser.add_argument("--pid", type=int, help="with --url: the server's process, for its CPU time and memory")
    parser.add_argument("--null", action="store_true", help="start a server that does nothing")
    parser.add_argument("--model", help="start ours with this bundle, NAME or NAME/VERSION")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 256], metavar="N", help="default: 1 16 256")
    parser.add_argument("--seconds", type=float, default=10, help="of each number of clients (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=2, metavar="S", help="before each (%(default)s)")
    parser.add_argument("--path", default="/predict", help="the route (%(default)s)")
    parser.add_argument("--field", default="file", help="the form's field (%(default)s)")
    parser.add_argument("--key", default="", help="x-api-key")
    parser.add_argument("--pictures", type=Path, metavar="EuroSAT.zip", help="a zip of JPEGs to ask with")
    return parser.parse_args(arguments)


def table(loads: list[dict[str, Any]]) -> Iterator[str]:
    """Lines for people."""
    titles = ("answers", "per s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "ours ms")
    yield "clients" + "".join(f"{title:>9}" for title in titles) + "     MB  errors"
    for row in loads:
        times = "".join(f"{row[name]:9.2f}" if name in row else f"{'':9}" for name in ("p50_ms", "p95_ms", "p99_ms"))
        spent = row.get("cpu_ms", {})
        costs = "".join(f"{spent[who]:9.3f}" if who in spent else f"{'':9}" for who in ("server", "client"))
        errors = ", ".join(f"{count} x {reason}" for reason, count in row["errors"].items()) or "none"
        yield (f"{row['clients']:7}{row['n']:9,}{row['requests_s']:9.1f}{times}{costs}"
               f"{row.get('peak_mb', ''):7}  {errors}")
    yield "CPU ms: the server's, per answer; ours ms: this generator's; MB: the server's processes at their peak."


if __name__ == "__main__":
    raise SystemExit(main())
