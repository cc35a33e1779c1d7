"""The on-prem server in its image: it answers, it forgets nothing when it is killed, and it may do little else."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from cli.images import build_all
from shutterless.kernels import KERNELS

pytestmark = [pytest.mark.needs("docker"), pytest.mark.timeout(900)]

KEY, METRICS_KEY = "a-key", "a-scraper"
STATE = "/var/lib/shutterless"
READY_S = 60.0


@pytest.fixture(scope="module")
def image(base_image: str) -> str:
    return build_all(["onprem"], base_image=base_image)["onprem"]


class Server:
    """A container on a volume."""

    def __init__(self, docker_client: Any, image: str, volume: str, **environment: str) -> None:
        self.container = docker_client.containers.run(
            image, detach=True, read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"], security_opt=["no-new-privileges:true"],
            environment={"SHUTTERLESS_API_KEYS": KEY, "SHUTTERLESS_METRICS_KEY": METRICS_KEY, **environment},
            ports={"8000/tcp": ("127.0.0.1", None)}, volumes={volume: {"bind": STATE}})
        self.client = httpx.Client(headers={"x-api-key": KEY}, timeout=30)
        self.await_ready()

    def await_ready(self) -> None:
        """It may have another port than before."""
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            self.container.reload()
            assert self.container.status in ("created", "running"), self.container.logs().decode()
            with suppress(httpx.TransportError, LookupError):
                self.client.base_url = httpx.URL(f"http://127.0.0.1:{self.container.ports['8000/tcp'][0]['HostPort']}")
                if self.client.get("/health").json()["ready"]:
                    return
            time.sleep(0.05)
        raise AssertionError(self.container.logs().decode())

    def run(self, command: str) -> tuple[int, str]:
        code, output = self.container.exec_run(["sh", "-c", command])
        return code, output.decode()

    def remove(self) -> None:
        self.client.close()
        self.container.remove(force=True)


@pytest.fixture(scope="module")
def volume(docker_client: Any) -> Iterator[str]:
    made = docker_client.volumes.create(f"shutterless-test-{uuid.uuid4().hex[:12]}")
    yield made.name
    made.remove(force=True)


@pytest.fixture(scope="module")
def server(docker_client: Any, image: str, volume: str) -> Iterator[Server]:
    server = Server(docker_client, image, volume)
    yield server
    server.remove()


@pytest.fixture(scope="module")
def tile(draw: Callable[..., Any], encode: Callable[..., bytes]) -> bytes:
    return encode(draw((64, 64)), "JPEG")


def test_it_answers_with_the_bundle_that_is_baked_in(server, tile) -> None:
    answer = server.client.post("/predict", content=tile)
    assert answer.status_code == 200
    assert answer.json()["model"]["name"] == "eurosat-lite0"
    metrics = httpx.get(server.client.base_url.join("/metrics"), headers={"authorization": f"Bearer {METRICS_KEY}"})
    assert 'shutterless_predictions_total{label="' in metrics.text
    assert httpx.get(server.client.base_url.join("/results")).status_code == 403


def test_kill_9_loses_no_upload_and_repeats_none(server, tile) -> None:
    before = server.client.get("/stats").json()["total_predictions"]
    ids = [server.client.post("/upload-image", content=tile).json()["request_id"] for _ in range(20)]
    server.container.kill("SIGKILL")
    server.container.start()
    server.await_ready()
    deadline_s = time.monotonic() + 120
    while (counts := server.client.get("/stats").json()["by_status"])["pending"] and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert counts == {"pending": 0, "done": before + len(ids), "failed": 0, "stalled": 0}
    for request_id in ids:
        (record,) = server.client.get("/results", params={"request_id": request_id}).json()["results"]
        assert record["status"] == "done"
        assert server.client.get(f"/results/{request_id}/image").content == tile


def test_another_container_on_the_same_volume_has_it_all(server, docker_client, image, volume) -> None:
    known = server.client.get("/stats").json()["total_predictions"]
    server.container.stop()
    other = Server(docker_client, image, volume)
    try:
        assert other.client.get("/stats").json()["total_predictions"] == known > 0
    finally:
        other.remove()
        server.container.start()
        server.await_ready()


def test_a_stop_is_graceful_and_quick(server) -> None:
    server.container.stop(timeout=40)
    server.container.reload()
    assert server.container.attrs["State"]["ExitCode"] in (0, 143)
    assert not server.container.attrs["State"]["OOMKilled"]
    server.container.start()
    server.await_ready()


def test_it_runs_as_nobody_special_and_writes_to_its_volume_alone(server) -> None:
    assert server.run("id -u")[1].strip() == "1000"
    assert server.run(f"stat -c %u:%g {STATE} {STATE}/shutterless.db")[1].split() == ["1000:1000"] * 2
    assert server.run("touch /opt/shutterless/x")[0] != 0
    assert server.run(f"touch {STATE}/x && rm {STATE}/x")[0] == 0


def test_docker_knows_whether_it_is_ready(server) -> None:
    assert server.run("python3 -m onprem.health") == (0, "")
    code, said = server.run("SHUTTERLESS_PORT=9 python3 -m onprem.health")
    assert (code, said.strip()) == (1, "The server does not answer on port 9.")
    assert server.container.attrs["Config"]["Healthcheck"]["Test"] == ["CMD", "python3", "-m", "onprem.health"]


def test_without_a_key_it_says_what_is_missing_and_ends(docker_client, image) -> None:
    container = docker_client.containers.run(image, detach=True)
    try:
        assert container.wait(timeout=60)["StatusCode"] == 1
        assert "SHUTTERLESS_API_KEYS" in container.logs().decode().splitlines()[-1]
    finally:
        container.remove(force=True)


def test_it_carries_its_licences_and_no_compiler_no_torch_and_no_secret(server, docker_client, image) -> None:
    assert "MIT License" in server.run("cat /opt/shutterless/LICENSE")[1]
    assert server.run("test -s /opt/shutterless/NOTICE && test -s /opt/shutterless/LICENSE-Apache-2.0.txt")[0] == 0
    assert server.run("ls -d /opt/shutterless/*.dist-info | wc -l")[1].strip() != "0"
    assert server.run("which gcc cc make; ls -d /opt/shutterless/torch 2>/dev/null")[1] == ""
    config = docker_client.images.get(image).attrs["Config"]
    assert config["User"] == "1000:1000"
    assert not [variable for variable in config["Env"] if "KEY" in variable or "PASSWORD" in variable]


def test_it_carries_our_convolutions(server):
    """They are for x86-64 alone."""
    code, said = server.run("uname -m; ls /opt/shutterless/shutterless/kernels")
    machine, *files = said.split()
    assert code == 0
    wanted = {kernel.file for kernel in KERNELS} if machine == "x86_64" else set()
    assert {file for file in files if file.endswith(".so")} == wanted
    program = "from shutterless.kernels import libraries, of_use\n" \
              "print(all(len(libraries(precision)) == len(of_use(precision)) for precision in (\"fp32\", \"int8\")))"
    assert server.run(f"cd /opt/shutterless && python3 -c '{program}'") == (0, "True\n")
