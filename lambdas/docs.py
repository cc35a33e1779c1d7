"""GET /openapi.json and /docs: the same document as on-prem, and a page that shows it and asks no other host."""

from __future__ import annotations

from pathlib import Path

import shutterless
from lambdas.answers import Answer
from lambdas.events import Request

DOCUMENT = Path(shutterless.__file__).with_name("openapi.json")
PAGE = Path(__file__).with_name("docs.html")
MARK = '{"openapi": null}'  # where the page takes the document in: behind a key, a browser could not ask for it again


def openapi(request: Request) -> Answer:
    """The OpenAPI document of all routes; `python -m onprem.docs` wrote it."""
    return Answer(body=DOCUMENT.read_text(encoding="utf-8"), headers={"content-type": "application/json"})


def page(request: Request) -> Answer:
    """The API's description for people, with a form to try each route."""
    html, policy = _page()
    return Answer(body=html, headers={"content-type": "text/html; charset=utf-8", "content-security-policy": policy,
                                      "referrer-policy": "no-referrer"})


def _page() -> tuple[str, str]:
    """The page, and a policy under which only its own script runs and only this API is asked."""
    import base64
    import hashlib

    html = PAGE.read_text(encoding="utf-8")
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    document = DOCUMENT.read_text(encoding="utf-8").replace("<", "\\u003c")
    return html.replace(MARK, document), (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
