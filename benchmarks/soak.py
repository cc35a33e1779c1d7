"""Does an acknowledged upload outlive the server? Clients upload for minutes while the server is killed and started again.

    python -m benchmarks.soak --clients 16 256 --minutes 3 --kills 6
    python -m benchmarks.soak --database-url postgresql://USER@HOST/EMPTY_DATABASE

Each client uploads one picture after the other, in turn by POST /upload-image, POST /upload, POST /upload_batch and a form of
POST /uploads, each picture under a name of its own, its true label. The server is killed by SIGKILL, at once started again on
the same port, so many times. In the end every picture that was acknowledged (202, 200, 204, or a place in the batch's
`results`) must have exactly one row, under the request_id that the client was told, and be done; and no name may be in two
rows, acknowledged or not. A form is sent again until it is acknowledged: that, too, is one row.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from PIL import Image

from benchmarks.predict import heading

SERVE = "import os; from onprem.server import serve; from shutterless.settings import Settings; " \
        "serve(Settings.from_environment(os.environ))"
WAYS = ("upload-image", "upload", "upload_batch", "form")
BOUNDARY = "soak-boundary"
SETTLE_S = 300.0  # after the load, for what is still pending
TRIES = 60  # of a form
SIDE = 64
GONE = (OSError, http.client.HTTPException)


@dataclass
class Told:
    """What clients were told: acknowledged, name -> request_id; refused, status -> how often; broken: connections that ended."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    waits_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledge(self, name: str, request_id: str, wait_s: float) -> None:
        with self.lock:
            self.acknowledged[name] = request_id
            self.waits_s.append(wait_s)

    def refuse(self, status: int) -> None:
        with self.lock:
            self.refused[status] += 1

    def broke(self) -> None:
        with self.lock:
            self.broken += 1


class Server:
    """A server process on one port and one state, which can be killed and started again."""

    def __init__(self, environ: dict[str, str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._environ = os.environ | environ | {"SHUTTERLESS_PORT": str(self.port)}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._process = subprocess.Popen([sys.executable, "-c", SERVE], env=self._environ, stdout=subprocess.PIPE, text=True)
        if not (self._process.stdout and self._process.stdout.readline().startswith("Listening on ")):
            raise SystemExit("Expected a server that says where it listens, got none. Its reason stands above.")

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.communicate()
            self._process = None


class Client:
    """One connection at a time, opened again when it ends."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "image/jpeg") -> tuple[int, Any]:
        """Status and JSON of the answer. Raises one of GONE."""
        try:
            self._connection.request(method, path, body, {"content-type": content_type})
            answer = self._connection.getresponse()
            said = answer.read()
            return answer.status, json.loads(said) if said else None
        except GONE:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both forms of the report; 1 when something was lost or came twice."""
    options = _options(arguments)
    reports = [soak(clients, minutes=options.minutes, kills=options.kills, environ=_environ(options))
               for clients in options.clients]
    for report in reports:
        print_table(report)
    print(json.dumps(heading("soak", arguments) | {"runs": reports}))
    return 0 if all(report["lost"] == report["twice"] == report["wrong"] == 0 for report in reports) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 256], help="one run for each number (16 256)")
    parser.add_argument("--minutes", type=float, default=3.0, help="of load in each run (%(default)s)")
    parser.add_argument("--kills", type=int, default=6, help="times that the server is killed in it (%(default)s)")
    parser.add_argument("--database-url", help="an empty PostgreSQL database, to which each run adds (default: SQLite)")
    parser.add_argument("--model", help="bundle that answers (default: SHUTTERLESS_MODEL)")
    return parser.parse_args(arguments)


def _environ(options: argparse.Namespace) -> dict[str, str]:
    wanted = {"DATABASE_URL": options.database_url, "SHUTTERLESS_MODEL": options.model}
    return {name: value for name, value in wanted.items() if value}


def soak(clients: int, *, minutes: float, kills: int, environ: dict[str, str]) -> dict[str, Any]:
    """One run on a new state; what clients were told, and what of it was not kept."""
    told, over = Told(), threading.Event()
    with tempfile.TemporaryDirectory() as var_dir:
        server = Server({"SHUTTERLESS_VAR_DIR": var_dir, "SHUTTERLESS_API_KEYS": ""} | environ)
        server.start()
        try:
            threads = [threading.Thread(target=_upload_until, args=(over, server.port, told, number))
                       for number in range(clients)]
            for thread in threads:
                thread.start()
            for _ in range(kills):
                time.sleep(60 * minutes / (kills + 1))
                server.end()
                server.start()
            time.sleep(60 * minutes / (kills + 1))
            over.set()
            for thread in threads:
                thread.join()
            rows = _settled(server.port, set(told.acknowledged.values()))
            server.end(signal.SIGTERM)
        finally:
            over.set()
            server.end()
    return {"clients": clients, "minutes": minutes, "kills": kills, **_compared(told, rows)}


def _upload_until(over: threading.Event, port: int, told: Told, number: int) -> None:
    picture, turn = drawn_jpeg(), number
    with closing(Client(port)) as client:
        while not over.is_set():
            turn += 1
            try:
                _upload(client, WAYS[turn % len(WAYS)], picture, told)
            except GONE:
                told.broke()
                over.wait(0.1)


def _upload(client: Client, way: str, picture: bytes, told: Told) -> None:
    """One upload under a new name, or several. Raises one of GONE, after which nobody knows what became of it."""
    name, began_s = uuid.uuid4().hex, time.monotonic()
    if way == "form":
        _upload_by_form(client, name, picture, told)
        return
    if way == "upload_batch":
        names = [f"{name}-{number}" for number in range(3)]
        status, said = client.ask("POST", "/upload_batch", multipart([("true_label", each) for each in names],
                                                                     [("files", picture)] * 3), _FORM)
        kept = said["results"] if status == 200 else []
    else:
        status, said = client.ask("POST", f"/{way}?true_label={quote(name)}", picture)
        kept = [{"true_label": name, "request_id": said["request_id"]}] if status in (200, 202) else []
    for one in kept:
        told.acknowledge(one["true_label"], one["request_id"], time.monotonic() - began_s)
    if not kept:
        told.refuse(status)
        time.sleep(0.2)


def _upload_by_form(client: Client, name: str, picture: bytes, told: Told) -> None:
    """A form is sent until it is taken: an answer that was lost makes no second picture."""
    began_s = time.monotonic()
    asked = json.dumps({"content_type": "image/jpeg", "size_bytes": len(picture), "true_label": name}).encode()
    status, form = client.ask("POST", "/uploads", asked, "application/json")
    if status != 201:
        told.refuse(status)
        return
    body = multipart(list(form["fields"].items()), [("file", picture)])
    for _ in range(TRIES):
        with suppress(*GONE):
            status, _ = client.ask("POST", "/uploads/form", body, _FORM)
            if status == 204:
                told.acknowledge(name, form["request_id"], time.monotonic() - began_s)
                return
            told.refuse(status)
        time.sleep(0.5)


_FORM = f"multipart/form-data; boundary={BOUNDARY}"


def multipart(fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, bytes]]) -> bytes:
    """A form's body: the fields, then the files."""
    heads = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{heads}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    parts += [f'{heads}"{name}"; filename="a.jpg"\r\n\r\n'.encode() + content + b"\r\n" for name, content in files]
    return b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def drawn_jpeg() -> bytes:
    """A red tile."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def _settled(port: int, acknowledged: set[str]) -> list[dict[str, Any]]:
    """All rows, as soon as none is pending that was acknowledged: a killed server's leases end by time, and forms that were
    never sent wait for longer."""
    deadline_s = time.monotonic() + SETTLE_S
    with closing(Client(port)) as client:
        while time.monotonic() < deadline_s and {row["request_id"] for row in _rows(client, "&status=pending")} & acknowledged:
            time.sleep(1)
        return list(_rows(client))


def _rows(client: Client, query: str = "") -> Iterator[dict[str, Any]]:
    cursor: str | None = ""
    while cursor is not None:
        status, page = client.ask("GET", f"/results?limit=100&cursor={cursor}{query}")
        if status != 200:
            raise SystemExit(f"Expected a page of results, got status {status}.")
        yield from page["results"]
        cursor = page["next_cursor"]


def _compared(told: Told, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """lost: acknowledged, and no such row. twice: a name in two rows. wrong: acknowledged, and not done."""
    names, by_id = Counter(row["true_label"] for row in rows), {row["request_id"]: row for row in rows}
    kept = {name: by_id.get(request_id) for name, request_id in told.acknowledged.items()}
    waits_s = sorted(told.waits_s)
    return {"acknowledged": len(kept), "rows": len(rows), "refused": dict(told.refused), "broken": told.broken,
            "lost": sum(row is None or row["true_label"] != name for name, row in kept.items()),
            "twice": sum(count > 1 for count in names.values()),
            "wrong": sum(row is not None and row["status"] != "done" for row in kept.values()),
            "p50_s": round(waits_s[len(waits_s) // 2], 3) if waits_s else None,
            "p99_s": round(waits_s[len(waits_s) * 99 // 100], 3) if waits_s else None}


def print_table(report: dict[str, Any]) -> None:
    """A line for each figure."""
    for name, value in report.items():
        print(f"{name:>13}  {value}")
    print()


if __name__ == "__main__":
    sys.exit(main())
