"""After a deploy: the API as a client meets it, once through each of its ways."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image

from shutterless.errors import Unavailable

CALL_S, ANSWER_S = 40.0, 120.0
PAUSE_S = 2.0
Say = Callable[[str], object]
Sign = Callable[[Request], None]
Ask = Callable[..., tuple[int, dict[str, Any]]]


def try_it(url: str, key: str, *, say: Say, sign: Sign | None = None) -> None:
    """Health without a key, a refusal without a key, a prediction, and an upload with its result, which is deleted again.

    sign: signs each request, where the API asks for that beside the key. Raises Unavailable, which says what was expected and
    what came.
    """
    def ask(method: str, path: str, picture: bytes | None = None) -> tuple[int, dict[str, Any]]:
        return _ask(method, f"{url.rstrip('/')}{path}", key, picture, sign)

    picture = _picture()
    _expect(200, lambda: _ask("GET", f"{url.rstrip('/')}/health"), "GET /health", say)
    _expect(403, lambda: _ask("GET", f"{url.rstrip('/')}/results"), "GET /results without a key", say)
    named = _expect(200, lambda: ask("POST", "/predict", picture), "POST /predict", say)
    say(f"  it says {named.get('label')}")
    receipt = _expect(202, lambda: ask("POST", "/upload-image", picture), "POST /upload-image", say)
    request_id = receipt["request_id"]
    _settled(ask, request_id, say)
    _expect(204, lambda: ask("DELETE", f"/results/{request_id}"), "DELETE /results/{request_id}", say)


def _settled(ask: Ask, request_id: str, say: Say) -> None:
    deadline, status = time.monotonic() + ANSWER_S, "pending"
    while time.monotonic() < deadline:
        _, body = ask("GET", f"/results?request_id={request_id}")
        status = (body.get("results") or [{}])[0].get("status", "unknown")
        if status == "done":
            say("ok  its result")
            return
        time.sleep(PAUSE_S)
    raise Unavailable(f"The upload {request_id} is {status} after {ANSWER_S:.0f} s; expected done. Look at the log of infer, and "
                      "at the dead letters.")


def _expect(status: int, ask: Callable[[], tuple[int, dict[str, Any]]], what: str, say: Say) -> dict[str, Any]:
    """A new key or route takes API Gateway up to a minute: until then, what is refused is asked again."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        got, body = ask()
        if got == status:
            say(f"ok  {what}: {got}")
            return body
        if time.monotonic() > deadline or got not in (0, 403, 404, 500, 502, 503, 504):
            raise Unavailable(f"{what}: expected {status}, got {got or 'no answer'}: {body.get('detail', body)}. It is deployed, "
                              "but does not work: look at the functions' logs.")
        time.sleep(PAUSE_S)


def _ask(method: str, url: str, key: str | None = None, picture: bytes | None = None,
         sign: Sign | None = None) -> tuple[int, dict[str, Any]]:
    """Status (0: nobody answers) and JSON."""
    headers = {"X-Api-Key": key} if key else {}
    if picture:
        headers["Content-Type"] = "image/png"
    request = Request(url, picture, headers, method=method)  # noqa: S310  of our own stack
    if sign:
        sign(request)
    try:
        with urlopen(request, timeout=CALL_S) as answer:  # noqa: S310  of our own stack
            return answer.status, _json(answer.read())
    except HTTPError as error:
        return error.code, _json(error.read())
    except (URLError, OSError):
        return 0, {}


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _picture() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()
