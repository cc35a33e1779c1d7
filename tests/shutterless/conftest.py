"""A database with a clock that stands, and a real S3 over HTTP: one server per test session, empty for each test."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest


class Clock:
    """A clock that stands until the test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def results(database_url: str, clock: Clock):
    from shutterless.results import migrate, open_results

    migrate(database_url)
    opened = open_results(database_url, now=clock)
    yield opened
    opened.close()


class FaultyS3:
    """moto's S3 behind a door that misbehaves on demand: `faults` are used up, one per request, first to last.

    "503", "403": refused; "slow": answered after `slow_s`; "cut": the body ends halfway. `requests` counts them all.
    """

    slow_s = 1.0
    refusals: ClassVar = {"503": ("503 Slow Down", "SlowDown"), "403": ("403 Forbidden", "AccessDenied")}

    def __init__(self, app: Callable) -> None:
        self.app, self.faults, self.requests, self.lock = app, [], 0, threading.Lock()

    def __call__(self, environ: dict, start_response: Callable) -> list[bytes]:
        with self.lock:
            self.requests += 1
            fault = self.faults.pop(0) if self.faults else None
        if fault in self.refusals:
            status, code = self.refusals[fault]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>As told.</Message></Error>".encode()]
        if fault == "slow":
            time.sleep(self.slow_s)
        body = b"".join(self.app(environ, start_response))
        return [body[:len(body) // 2]] if fault == "cut" else [body]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, FaultyS3]]:
    """Address and door of one S3 emulator."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: object) -> None:
            pass

    door = FaultyS3(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", door
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def boto_session():
    """Shared, because each new session parses megabytes of JSON."""
    import boto3

    return boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")


@pytest.fixture
def s3(s3_server: tuple[str, FaultyS3], boto_session, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """The S3 emulator's door, faultless; the environment leads boto3 to it, with keys that open nothing real."""
    address, door = s3_server
    monkeypatch.setattr("boto3.DEFAULT_SESSION", boto_session)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ENDPOINT_URL_S3": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
                        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    door.faults.clear()
    yield door
    door.faults.clear()


@pytest.fixture
def bucket(s3: FaultyS3, boto_session) -> str:
    """Name of a new, empty, versioned bucket."""
    name = f"test-{uuid.uuid4().hex}"
    client = boto_session.client("s3")
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    client.close()
    return name
