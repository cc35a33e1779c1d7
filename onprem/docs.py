"""/openapi.json told truthfully: the three shapes of a picture, the headers, and errors as problem+json.

`python -m onprem.docs` writes it down for the doors without FastAPI.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, JsonValue

import shutterless
from onprem.schemas import Problem
from shutterless.uploads import MAX_TEXT, TASKS

ON_PREM = "on-prem only"  # the tag of routes that AWS's door has not; the document is one for both
EMPTY = "allowEmptyValue"
Responses = dict[int | str, dict[str, Any]]

WRITTEN = Path(shutterless.__file__).with_name("openapi.json")

TASK: dict[str, JsonValue] = {"type": "string", "enum": [*TASKS]}
TRUE_LABEL: dict[str, JsonValue] = {"type": "string", "maxLength": MAX_TEXT}

_BINARY = {"type": "string", "format": "binary"}
_TEXT = {"type": "string"}
_BASE64 = {"type": "string", "format": "byte", "minLength": 1, "description": "The picture in base64", "examples": [
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNwaHAAAAIEAQFjA9c5AAAAAElFTkSuQmCC"]}
_SCALAR = {"type": ["string", "number", "null"]}  # a number is taken as the text that it is written as
_ABOUT = {"task": {"type": "string", "enum": [*TASKS, ""]}, "true_label": TRUE_LABEL}  # empty: not filled in
_ABOUT_IN_JSON = {"task": {"enum": [*TASKS, "", None]}, "true_label": _SCALAR | {"maxLength": MAX_TEXT}}
_PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff")


def _picture(in_form: dict[str, Any], in_json: dict[str, Any]) -> dict[str, Any]:
    """A body that carries one picture, and these fields beside it."""
    return {"requestBody": {"required": True, "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"],
                                           "properties": {"file": _BINARY, "model": _TEXT} | in_form}},
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
        "application/json": {"schema": {
            "type": "object", "oneOf": [{"required": ["image_base64"]}, {"required": ["image_b64"]}],
            "properties": {"image_base64": _BASE64, "image_b64": _BASE64, "filename": _SCALAR, "extension": _SCALAR,
                           "model": _SCALAR} | in_json,
            "additionalProperties": _SCALAR}}}}}


PICTURE = _picture({}, {})
KEPT_PICTURE = _picture(_ABOUT, _ABOUT_IN_JSON)

BATCH: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": {
    "schema": {"type": "object", "required": ["files"],
               "properties": {"files": {"type": "array", "items": _BINARY, "minItems": 1},
                              "true_label": {"type": "array", "items": TRUE_LABEL,
                                             "description": "One for each file, or none"}}}}}}}

ANNOUNCEMENT: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/json": {
    "schema": {"type": "object", "required": ["content_type", "size_bytes"],
               "properties": {"content_type": {"type": "string", "enum": [*_PICTURE_TYPES]},
                              "size_bytes": {"type": "integer", "minimum": 1}, "task": _ABOUT_IN_JSON["task"],
                              "true_label": {"type": ["string", "null"], "maxLength": MAX_TEXT}}}}}}}

OPEN: dict[str, Any] = {"security": []}  # a route that asks for no key
FORM: dict[str, Any] = OPEN | {"requestBody": {"required": True, "content": {"multipart/form-data": {
    "schema": {"type": "object", "required": ["key", "Content-Type", "policy", "signature", "file"],
               "properties": {"key": _TEXT, "Content-Type": _TEXT, "policy": _TEXT, "signature": _TEXT, "file": _BINARY}}}}}}

PICTURE_ANSWER: Responses = {200: {"description": "The picture",
                                   "content": {kind: {"schema": _BINARY} for kind in _PICTURE_TYPES}}}

_HEADERS = {"X-Request-Id": {"description": "Names this request in the server's log.", "schema": _TEXT},
            "Server-Timing": {"description": "Where the time went, in milliseconds.", "schema": _TEXT}}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait before asking again.", "schema": {"type": "integer"}}}
_LOCATION = {"Location": {"description": "Where its result is.", "schema": {"type": "string", "format": "uri-reference"}}}
_LINKS = {name: {"operationRef": f"#/paths/{path.replace('/', '~1')}/{method}",
                 "parameters": {"request_id": "$response.body#/request_id"}}
          for name, method, path in (("result", "get", "/results"), ("picture", "get", "/results/{request_id}/image"),
                                     ("forget", "delete", "/results/{request_id}"))}
_WHY = {400: "Not a readable picture", 403: "Key missing or wrong", 408: "The body came too slowly",
        413: "Too many bytes or pixels", 415: "Not an accepted picture format", 422: "A field does not fit",
        429: "Too many requests with this key", 503: "Try again"}
_ALWAYS = (403, 429, 503)


def answers(model: type[BaseModel] | None, *errors: int, success: int = 200, kept: bool = False) -> Responses:
    """`responses` of a route: its body (None: told elsewhere, or none), and the errors that it can answer with.

    kept: the answer names a result that can be asked for from now on.
    """
    good: Responses = {success: {"model": model, "headers": _HEADERS}} if model else {}
    if kept:
        good[success] |= {"headers": _HEADERS | _LOCATION, "links": _LINKS}
    return good | {error: {"model": Problem, "description": _WHY.get(error, HTTPStatus(error).phrase),
                           "headers": _HEADERS | (_RETRY_AFTER if error in (429, 503) else {})}
                   for error in sorted({*_ALWAYS, *errors})}


def fillable(**schema: JsonValue) -> Callable[[dict[str, JsonValue]], None]:
    """The `json_schema_extra` of a query parameter which the core reads: what it is, where it is not empty; an empty one counts
    as not filled in."""
    def write(made: dict[str, JsonValue]) -> None:
        made.clear()
        made.update(schema | {EMPTY: True})
    return write


def document(app: FastAPI, *, locked: bool = True) -> dict[str, Any]:
    """The OpenAPI document; made at the first call. FastAPI knows one media type per route: errors get theirs here.

    locked: whether a key is asked for.
    """
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for route in made["paths"].values():
            for operation in route.values():
                _tell_errors(operation["responses"])
                for parameter in operation.get("parameters", ()):
                    if parameter["schema"].pop(EMPTY, False):
                        parameter[EMPTY] = True
        made["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
        made["security"] = [{"key": []}] if locked else []
        app.openapi_schema = made
    return app.openapi_schema


def _tell_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if int(status) >= 400:
            response["content"] = {"application/problem+json": response["content"]["application/json"]}


def main() -> None:
    """Write the document."""
    from onprem.app import describe

    WRITTEN.write_text(to_text(document(describe())), encoding="utf-8")


def to_text(made: dict[str, Any]) -> str:
    """The written document, a field a line, so that a change shows as one."""
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
