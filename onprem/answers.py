"""What goes back over HTTP: JSON, and every error as application/problem+json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from onprem.pending import QueueFull
from onprem.tallies import reason_of
from shutterless.errors import BadRequest, Overloaded, ShutterlessError
from shutterless.problems import CONTENT_TYPE, problem

RETRY_AFTER_S = 1
REFUSALS = (ShutterlessError, RequestValidationError, HTTPException)  # ours, FastAPI's, Starlette's

log = logging.getLogger(__name__)


def json_answer(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON; orjson, because /predict is called often."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def problem_answer(cause: BaseException | int, request_id: str, *, detail: str | None = None,
                   headers: Mapping[str, str] | None = None) -> Response:
    """An error as RFC 9457 wants it; what may be tried again says when. `detail` replaces the usual sentence."""
    body = problem(cause, request_id, detail)
    again = {"retry-after": str(RETRY_AFTER_S)} if body["status"] == 503 else {}
    return Response(orjson.dumps(body), body["status"], again | dict(headers or {}), media_type=CONTENT_TYPE)


def request_id_of(request: Request) -> str:
    """The id that the envelope gave this request."""
    return cast(str, request.state.request_id)


def handle_errors(app: FastAPI) -> None:
    """Answer REFUSALS as problems. All others pass on to the envelope."""
    for kind in REFUSALS:
        app.add_exception_handler(kind, _refuse)


def refusal(request: Request, error: Exception) -> Response:
    """The answer to one of REFUSALS."""
    if isinstance(error, ShutterlessError):
        return _refused(request, error)
    return _invalid(request, error) if isinstance(error, RequestValidationError) else _http(request, error)


async def _refuse(request: Request, error: Exception) -> Response:
    return refusal(request, error)


def _refused(request: Request, error: ShutterlessError) -> Response:
    request_id = request_id_of(request)
    request.state.reason = reason_of(error)
    if error.status >= 500 and not isinstance(error, Overloaded):
        log.error("Request %s refused: %s", request_id, error)  # an operator's matter: the client sees less of it
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, QueueFull) else None
    return problem_answer(error, request_id, headers=headers)


def _invalid(request: Request, error: RequestValidationError) -> Response:
    """Names the field and repeats what came, so that the client can see what to correct."""
    request.state.reason = reason_of(BadRequest())
    first = error.errors()[0]
    field, got = str(first["loc"][-1]), str(first.get("input"))[:80]
    refusal = BadRequest(f"{field}: {first['msg']}, got {got!r}. Correct it, or leave it out for the default.")
    return problem_answer(refusal, request_id_of(request))


def _http(request: Request, error: Exception) -> Response:
    cause = cast(HTTPException, error)
    said = cause.detail if cause.status_code in (403, 408) else None  # Starlette's own details only repeat the title
    return problem_answer(cause.status_code, request_id_of(request), detail=said, headers=cause.headers)
