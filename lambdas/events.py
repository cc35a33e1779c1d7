"""Event -> request: API Gateway REST (v1) and HTTP (v2), function URLs, and what people invoke by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shutterless.bodies import IMAGE_FIELDS, from_base64
from shutterless.errors import BadRequest, TooLarge
from shutterless.formats import sniff

MAX_INLINE_BYTES = 4_500_000  # of picture: in base64, with the event around it, that is just below Lambda's 6 MB
MAX_EVENT_BYTES = 6 * 1024 * 1024  # https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
NO_TIMEOUT_MS = 900_000  # where the caller has no clock, as in tests: the longest that a function may run
TOO_LARGE = (f"Expected a picture of at most {MAX_INLINE_BYTES:,} bytes in a request, got more. Save it smaller, or send it by "
             "POST /uploads.")
JSON = "application/json"


class ForeignEvent(BadRequest):
    """An event of a queue, a bucket or a schedule. To answer it would acknowledge it: the invocation has to fail."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What came, whatever door of AWS it came through.

    path: without the stage and the base path of a custom domain. headers: names in lower case. body: base64 taken off.
    parameters: of the path, filled in when the route is found. aws_request_id: Lambda's, for the log.
    time_left_ms: when the event was read. is_bare: invoked by hand, not over HTTP.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    aws_request_id: str = ""
    time_left_ms: int = NO_TIMEOUT_MS
    parameters: Mapping[str, str] = field(default_factory=dict)
    is_bare: bool = False


def new_request_id() -> str:
    """A random UUID (RFC 9562, version 4); the module uuid would cost some milliseconds of the start."""
    digits = f"{(int.from_bytes(os.urandom(16)) & ~(0xF << 76) & ~(0x3 << 62)) | 0x4 << 76 | 0x2 << 62:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def read_request(event: Any, context: Any, *, bare_path: str, request_id: str) -> Request:
    """`bare_path` is what events without a path ask for.

    Raises BadRequest for what is no request, ForeignEvent for a queue's, a bucket's or a schedule's event, TooLarge for
    more bytes than Lambda takes.
    """
    if not isinstance(event, dict):
        raise BadRequest(f"Expected {_SHAPES}, got {_kind(event)}. Send one of these.")
    if source := _foreign(event):
        raise ForeignEvent(f"Expected {_SHAPES}, got an event of {source}. Point that trigger at another function.")
    where = event.get("requestContext")
    where = where if isinstance(where, dict) else {}
    told = {"request_id": request_id, "aws_request_id": str(getattr(context, "aws_request_id", None) or ""),
            "time_left_ms": time_left_ms(context)}
    if isinstance(where.get("http"), dict):
        return _from_v2(event, where, told)
    if isinstance(event.get("httpMethod"), str):
        return _from_v1(event, told)
    return _from_hand(event, bare_path, told)


_SHAPES = 'an event of API Gateway or of a function URL, {"image_b64": "..."} or {"body": ...}'


def _from_v2(event: dict[str, Any], where: dict[str, Any], told: dict[str, Any]) -> Request:
    """HTTP APIs (payload 2.0) and function URLs."""
    http, headers = where["http"], _headers(event.get("headers"))
    path = str(event.get("rawPath") or http.get("path") or "/")
    stage = str(where.get("stage") or "$default")
    if stage != "$default" and (path == f"/{stage}" or path.startswith(f"/{stage}/")):
        path = path[len(stage) + 1:] or "/"
    template = str(event.get("routeKey") or "$default").rpartition(" ")[2]
    return Request(method=str(http.get("method") or "GET").upper(), path=_without_base_path(path, template),
                   query=_query(event), headers=headers, body=_body(event, headers), **told)


def _from_v1(event: dict[str, Any], told: dict[str, Any]) -> Request:
    """REST APIs."""
    headers = _headers(event.get("headers") or event.get("multiValueHeaders"))
    path = _without_base_path(str(event.get("path") or "/"), str(event.get("resource") or ""))
    return Request(method=event["httpMethod"].upper(), path=path, query=_query(event), headers=headers,
                   body=_body(event, headers), **told)


def _from_hand(event: dict[str, Any], bare_path: str, told: dict[str, Any]) -> Request:
    """{"image_b64": ...}, its other fields also as the query; or {"body": ...}, with headers and query where given."""
    if any(name in event for name in IMAGE_FIELDS):
        headers, body = {"content-type": JSON}, json.dumps(event).encode()
        query = {name: str(value) for name, value in event.items()
                 if name not in IMAGE_FIELDS and isinstance(value, (str, int, float)) and not isinstance(value, bool)}
    elif "body" in event:
        headers, query = _headers(event.get("headers")), _query(event)
        body = _body(event, headers, hand_made=True)
        if "content-type" not in headers and body[:1] in (b"{", b"["):
            headers["content-type"] = JSON
    else:
        raise BadRequest(f"Expected {_SHAPES}, got {_kind(event)}. Send one of these; `shutterless event` writes them.")
    return Request(method="POST", path=bare_path, query=query, headers=headers, body=body, is_bare=True, **told)


def _foreign(event: dict[str, Any]) -> str | None:
    """Who sent an event that is no request: its name, None for anything else."""
    records = event.get("Records")
    if isinstance(records, list):
        first = records[0] if records and isinstance(records[0], dict) else {}
        return str(first.get("eventSource") or first.get("EventSource") or "a batch of records")[:40]
    if event.get("Event") == "s3:TestEvent":
        return "aws:s3"
    if "detail-type" in event:
        return str(event.get("source") or "EventBridge")[:40]
    return "CloudFormation" if "StackId" in event and "RequestType" in event else None


def _without_base_path(path: str, template: str) -> str:
    """A custom domain puts a base path before the route: as many parts as the route has, from the end, are the path."""
    if not template.startswith("/") or "+}" in template:
        return path
    parts = template.count("/")
    return "/" + "/".join(path.split("/")[-parts:]) if path.count("/") > parts else path


def _headers(headers: Any) -> dict[str, str]:
    """Names in lower case; of several values of one name, the last."""
    if not isinstance(headers, dict):
        return {}
    lasts = ((name, value[-1] if isinstance(value, list) and value else value) for name, value in headers.items())
    return {str(name).lower(): str(value) for name, value in lasts if value is not None}


def _query(event: dict[str, Any]) -> dict[str, str]:
    """Of several values of one name, the last, as on-prem. HTTP APIs join them with commas; their raw string does not."""
    raw, pairs = event.get("rawQueryString"), event.get("queryStringParameters")
    if isinstance(raw, str) and raw:
        from urllib.parse import parse_qsl

        return dict(parse_qsl(raw, keep_blank_values=True, max_num_fields=None))
    if not isinstance(pairs, dict):
        return {}
    return {str(name): str(value) for name, value in pairs.items() if value is not None}


def _body(event: dict[str, Any], headers: Mapping[str, str], *, hand_made: bool = False) -> bytes:
    """The bytes that the client sent. `isBase64Encoded` may lie: a picture in base64 is recognised without it."""
    body = event.get("body")
    if body is None:
        return b""
    if isinstance(body, (dict, list)):
        return json.dumps(body).encode()
    if not isinstance(body, str):
        raise BadRequest(f"body: expected text, got {_kind(body)}. Send the picture in base64, or JSON.")
    if len(body) > MAX_EVENT_BYTES:
        raise TooLarge(TOO_LARGE)
    if event.get("isBase64Encoded") is True:
        return from_base64("body, which isBase64Encoded says is base64", body)
    text = body.lstrip()
    is_json = headers.get("content-type", "").startswith(JSON) or text[:1] in ("{", "[")
    if not is_json and (_begins_a_picture(text) or (hand_made and "content-type" not in headers)):
        return from_base64("body", body)
    return body.encode("utf-8", "replace")


def _begins_a_picture(text: str) -> bool:
    try:
        return sniff(from_base64("body", text[:64].rstrip("=\r\n")[:48])) is not None
    except BadRequest:
        return False


def time_left_ms(context: Any) -> int:
    """Of this invocation."""
    ask = getattr(context, "get_remaining_time_in_millis", None)
    return int(ask()) if callable(ask) else NO_TIMEOUT_MS


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return f"an object with {', '.join(sorted(str(name)[:40] for name in value)[:6]) or 'nothing in it'}"
    names = {list: "a list", str: "a string", type(None): "null", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "another value")
