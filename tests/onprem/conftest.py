"""Real servers on free ports, on a tiny real bundle: in a thread, or in a process that can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from onprem.app import create_app
from onprem.door import Door
from onprem.heads import BoundedHeads, bounded_to
from onprem.listening import listen
from shutterless.settings import Settings

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="session")
def jpeg(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """`jpeg("red")`: a tile that the bundle calls red."""
    return lambda colour="red", side=64: encode(Image.new("RGB", (side, side), COLOURS[colour]), "JPEG")


class DoorClient(httpx.Client):
    """Of a server in this process. door: what it is made of; listener: the socket that it listens on."""

    door: Door
    listener: socket.socket


@pytest.fixture
def open_door(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., DoorClient]]:
    """`open_door(max_bytes=1000, ...)`: a client of a new server with these settings, which runs until the test ends."""
    with ExitStack() as stack:
        def open_door(*, headers: dict[str, str] | None = None, **settings: Any) -> DoorClient:
            everything: dict[str, Any] = {"model": "colours", "models_dir": models_dir, "var_dir": tmp_path / "var"}
            server = served(Settings(**everything | settings))
            url = stack.enter_context(server)
            client = stack.enter_context(DoorClient(base_url=url, headers=headers, timeout=30))
            client.door, client.listener = server.app.state.door, server.listener
            return client
        yield open_door


class served:  # noqa: N801  reads as a verb at its `with`
    """A server in a thread of this process; its address."""

    def __init__(self, settings: Settings) -> None:
        self.app = create_app(settings)
        self.server = uvicorn.Server(uvicorn.Config(
            self.app, http=bounded_to(BoundedHeads.max_connections, self.app.state.express), ws="none", lifespan="on",
            log_level="warning", access_log=False))

    def __enter__(self) -> str:
        self.listener = listen("127.0.0.1", 0, locked=True)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def client(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all tests of a file that need nothing special of it."""
    settings = Settings(model="colours", models_dir=models_dir, var_dir=tmp_path_factory.mktemp("var"))
    with served(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def settle() -> Callable[[httpx.Client, str], dict[str, Any]]:
    """`settle(client, request_id)`: the record, as soon as it is no longer pending."""
    def settle(client: httpx.Client, request_id: str) -> dict[str, Any]:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            record: dict[str, Any] = client.get("/results", params={"request_id": request_id}).json()["results"][0]
            if record["status"] != "pending":
                return record
            time.sleep(0.02)
        raise AssertionError(f"{request_id} is still pending")
    return settle


class Process:
    """`shutterless serve` as a process of its own, where need be behind a command that starts it."""

    def __init__(self, starter: Sequence[str] = (), **settings: object) -> None:
        environ = {name: value for name, value in os.environ.items()
                   if not name.startswith("SHUTTERLESS_") and name not in ("DATABASE_URL", "MODEL_URI")}
        code = ("import os; from onprem.server import serve; from shutterless.settings import Settings; "
                "serve(Settings.from_environment(os.environ))")
        self.process = subprocess.Popen(
            [*starter, sys.executable, "-c", code], env=environ | {name: str(value) for name, value in settings.items()},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    def url(self) -> str:
        """Where it listens; returns when it does."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Listening on "), self.process.communicate()[1]
        return line.split()[-1]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[str, str]:
        """SIGTERM; what it still said."""
        self.process.terminate()
        return self.process.communicate(timeout=60)


@pytest.fixture
def start(models_dir: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """`start(DATABASE_URL=...)`: a server in a new process; always on the same var folder."""
    started: list[Process] = []

    def start(**settings: object) -> Process:
        started.append(Process(**{"SHUTTERLESS_MODEL": "colours", "SHUTTERLESS_MODELS_DIR": models_dir,
                                  "SHUTTERLESS_VAR_DIR": tmp_path / "var", "SHUTTERLESS_PORT": 0} | settings))
        return started[-1]
    yield start
    for process in started:
        process.kill()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Until it happened; fails where it does not within ten seconds."""
    def wait(happened: Callable[[], bool]) -> None:
        for _ in range(1000):
            if happened():
                return
            time.sleep(0.01)
        raise AssertionError("it did not happen")
    return wait
