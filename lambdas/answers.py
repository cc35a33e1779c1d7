"""Answer -> the proxy response that REST (v1), HTTP (v2) and function URLs take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shutterless.errors import ShutterlessError
from shutterless.problems import CONTENT_TYPE, problem

RETRY_AFTER_S = 1


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What goes back: `body` is JSON if it is not text or bytes. Header names are in lower case.

    metrics: name -> milliseconds, counts: name -> number, shares: name -> 0..1, beside those that every request has. label: what
    was predicted, where Predictions are counted by it too. reason: why it failed.
    """

    status: int = 200
    body: dict[str, Any] | list[Any] | str | bytes = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    reason: str | None = None


def problem_answer(cause: BaseException | int, request_id: str, *, detail: str | None = None,
                   headers: Mapping[str, str] | None = None) -> Answer:
    """An error as RFC 9457 wants it; what may be tried again says when. `detail` replaces the usual sentence."""
    body = problem(cause, request_id, detail)
    again = {"retry-after": str(RETRY_AFTER_S)} if body["status"] == 503 else {}
    reason = type(cause).__name__ if isinstance(cause, ShutterlessError) else f"Http{body['status']}"
    return Answer(status=body["status"], body=body, reason=reason,
                  headers={"content-type": CONTENT_TYPE} | again | dict(headers or {}))


def to_proxy(answer: Answer, *, has_body: bool = True) -> dict[str, Any]:
    """For HEAD the body stays away."""
    return {"statusCode": answer.status, "headers": {**_content_type(answer), **answer.headers},
            "body": _text(answer.body) if has_body else "", "isBase64Encoded": has_body and isinstance(answer.body, bytes)}


def _content_type(answer: Answer) -> dict[str, str]:
    return {} if isinstance(answer.body, (str, bytes)) else {"content-type": "application/json"}


def _text(body: Any) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, bytes):
        import base64

        return base64.b64encode(body).decode()
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()  # half a surrogate pair has no UTF-8
