"""Errors as `application/problem+json` (RFC 9457): a status, a title, a sentence that says what to do."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from shutterless.errors import BadBundle, ShutterlessError

CONTENT_TYPE = "application/problem+json"
SENTENCES = {
    400: "The request cannot be read. Correct it and send it again.",
    403: "The API key is missing or wrong. Send it in the header x-api-key.",
    404: "There is nothing at this address. See /docs for the routes.",
    405: "This address does not take this method. See /docs for the routes.",
    413: "The request has too many bytes. Send a smaller picture.",
    415: "This content type is not accepted. Send a picture as image/*, multipart/form-data or JSON with base64.",
    422: "A field does not fit. See /docs for the fields.",
    429: "Too many requests. Wait a moment and send it again.",
    500: "Something went wrong on our side. Try again; if it stays, tell the operator the request_id.",
    503: "The service is busy or starting. Wait a moment and send it again.",
    504: "The answer took too long. Send it again, or use POST /upload-image.",
}
PHRASES = {status.value: status.phrase for status in HTTPStatus}
MODEL = "The model cannot be served. Tell the operator the request_id: the log says what is wrong with the bundle."


def problem(cause: BaseException | int, request_id: str, detail: str | None = None) -> dict[str, Any]:
    """The body for an error of our tree, for any other exception (500, which tells nothing of it) or for a status.

    `detail` replaces the sentence. A BadBundle's message is written for operators, so clients get another.
    """
    status = cause if isinstance(cause, int) else cause.status if isinstance(cause, ShutterlessError) else 500
    return {"type": "about:blank", "title": _title(cause, status), "status": status,
            "detail": detail or _detail(cause, status), "request_id": request_id}


def _title(cause: BaseException | int, status: int) -> str:
    if isinstance(cause, ShutterlessError):
        return cause.title
    return PHRASES.get(status, "Error")


def _detail(cause: BaseException | int, status: int) -> str:
    if isinstance(cause, BadBundle):
        return MODEL
    if isinstance(cause, ShutterlessError) and status != 500:
        return str(cause)
    return SENTENCES.get(status, SENTENCES[500 if status >= 500 else 400])
