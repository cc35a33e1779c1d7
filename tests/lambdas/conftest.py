"""Events as API Gateway, function URLs and people make them, and what stands behind the functions."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from PIL import Image

from lambdas.infer import Container
from lambdas.storage import Storage
from shutterless.settings import Settings

Event = dict[str, Any]


class Context:
    """What Lambda hands to a handler beside the event."""

    aws_request_id = "8a1d9a0e-aws"

    def get_remaining_time_in_millis(self) -> int:
        return 12_345


def rest(method: str, path: str, body: bytes, content_type: str | None, query: str, headers: dict[str, str]) -> Event:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html"""
    headers = ({"Content-Type": content_type} if content_type else {}) | {"Host": "api.example.org"} | headers
    pairs = parse_qsl(query, keep_blank_values=True)
    return {
        "resource": "/{proxy+}", "path": path, "httpMethod": method, "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(pairs) or None,
        "multiValueQueryStringParameters": {name: [v for n, v in pairs if n == name] for name, _ in pairs} or None,
        "pathParameters": {"proxy": path.lstrip("/")}, "stageVariables": None,
        "requestContext": {"resourcePath": "/{proxy+}", "httpMethod": method, "path": f"/prod{path}", "stage": "prod",
                           "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "identity": {"sourceIp": "127.0.0.1"}},
        **carried(body)}


def http(method: str, path: str, body: bytes, content_type: str | None, query: str, headers: dict[str, str],
         stage: str = "prod") -> Event:
    """https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html"""
    headers = ({"content-type": content_type} if content_type else {}) | {name.lower(): v for name, v in headers.items()}
    in_stage = path if stage == "$default" else f"/{stage}{path}"
    pairs: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        pairs.setdefault(name, []).append(value)
    return {
        "version": "2.0", "routeKey": "$default", "rawPath": in_stage, "rawQueryString": query, "headers": headers,
        **({"queryStringParameters": {name: ",".join(values) for name, values in pairs.items()}} if pairs else {}),
        "requestContext": {"apiId": "api-id", "routeKey": "$default", "stage": stage, "requestId": "id",
                           "http": {"method": method, "path": in_stage, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        **carried(body)}


def url(method: str, path: str, body: bytes, content_type: str | None, query: str, headers: dict[str, str]) -> Event:
    """A function URL's event: https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html"""
    return http(method, path, body, content_type, query, headers, stage="$default")


def carried(body: bytes) -> Event:
    """How a body travels: as text where it is text, else in base64."""
    if not body:
        return {"body": None, "isBase64Encoded": False}
    try:
        return {"body": body.decode(), "isBase64Encoded": False}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}


SHAPES = {"rest": rest, "http": http, "url": url}


def maker(shape: Callable[..., Event]) -> Callable[..., Event]:
    def make_event(method: str, path: str, body: bytes = b"", content_type: str | None = None, query: str | dict[str, str] = "",
                   headers: dict[str, str] | None = None) -> Event:
        query = query if isinstance(query, str) else urlencode(query)
        event: Event = shape(method, path, body, content_type, query, headers or {})
        return json.loads(json.dumps(event))
    return make_event


@pytest.fixture(params=SHAPES)
def make_event(request: pytest.FixtureRequest) -> Callable[..., Event]:
    """`make_event("POST", "/predict", body, content_type, query="top=3", headers={...})`, in each of the three shapes."""
    return maker(SHAPES[request.param])


@pytest.fixture
def rest_event() -> Callable[..., Event]:
    """The same, in one shape: where what comes after the event is tested."""
    return maker(rest)


@pytest.fixture
def context() -> Context:
    return Context()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """`lines()`: what was logged since the last call, each line as the JSON that it has to be."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# Functions in the VPC: a database with its roles, a versioned bucket, a tiny model.

@pytest.fixture(scope="session")
def migrated_database(new_database_with_roles: Callable[[], str]) -> str:
    """A database with the schema, and with a role for each function, shared by all tests: their pictures do not meet."""
    return new_database_with_roles()


@pytest.fixture
def settings_of(migrated_database: str, bucket: str, models_dir: Path) -> Callable[..., Settings]:
    """`settings_of("infer", max_receives=2)`: what that function finds in its environment, its own database role first."""
    def settings_of(function: str, **others: Any) -> Settings:
        url = migrated_database.replace("//postgres:@", f"//shutterless_{function}:@")
        assert url != migrated_database
        return Settings(**{"model": "colours", "models_dir": models_dir, "database_url": url,
                           "objects_url": f"s3://{bucket}"} | others)
    return settings_of


@pytest.fixture
def open_storage() -> Iterator[Callable[[Settings], Storage]]:
    """Opens what a function opens; closed after the test."""
    opened = []

    def open_storage(settings: Settings) -> Storage:
        opened.append(Storage(settings, os.environ))
        return opened[-1]

    yield open_storage
    for storage in opened:
        storage.close()


@pytest.fixture
def container(settings_of: Callable[..., Settings], open_storage: Callable[[Settings], Storage]) -> Container:
    """What infer keeps while its container lives."""
    settings = settings_of("infer")
    return Container(settings, open_storage(settings))


@pytest.fixture(scope="session")
def jpeg(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """`jpeg("red")`: a picture that the model colours calls red."""
    def jpeg(colour: str = "red", size: tuple[int, int] = (40, 30)) -> bytes:
        return encode(Image.new("RGB", size, colour), "JPEG")
    return jpeg


@pytest.fixture
def post(s3: object, bucket: str, boto_session: Any) -> Iterator[Callable[..., str]]:
    """`post(form, picture)`: uses a presigned form as a browser does; returns the version of the object that it made."""
    import httpx

    client = boto_session.client("s3")

    def post(form: dict[str, Any], picture: bytes, **changed: str) -> str:
        answer = httpx.post(form["url"], data=form["fields"] | changed, files={"file": ("picture", picture)})
        assert answer.status_code in (200, 201, 204), answer.text
        return str(client.head_object(Bucket=bucket, Key=form["fields"]["key"])["VersionId"])
    yield post
    client.close()
