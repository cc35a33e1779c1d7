"""What people and machines look at: the page, the API's description, health. No page asks another host for anything."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

from onprem.answers import json_answer, problem_answer, request_id_of
from onprem.docs import ON_PREM, OPEN, answers
from onprem.door import Door, door_of
from onprem.schemas import Alive, Health, Ready
from shutterless import __version__

PATIENCE_S = 2.0  # with the database, of who asks for health
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

routes = APIRouter()


@routes.get("/", include_in_schema=False)
def page() -> Response:
    """A page to try the API by hand."""
    html, policy = _page()
    return HTMLResponse(html, headers={"content-security-policy": policy, "referrer-policy": "no-referrer"})


@cache
def _page() -> tuple[str, str]:
    """The page, and a policy under which only its own script runs and only this server is asked."""
    html = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return html, (f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src blob: data:; "
                  "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


@routes.get("/docs", include_in_schema=False)
def docs() -> Response:
    """Swagger UI. Its files come from a Python package, not from a CDN: it works without the internet."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json", title="Shutterless API", swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css", swagger_favicon_url="data:,",
        swagger_ui_parameters={"validatorUrl": None})  # else it sends the document's address to swagger.io


@routes.get("/docs/{asset}", include_in_schema=False)
def docs_asset(asset: str) -> Response:
    """A file of Swagger UI."""
    package = find_spec("fastapi_offline")  # found, not imported: only its files are of use here
    if asset not in ASSETS or package is None or package.origin is None:
        raise HTTPException(404)
    return FileResponse(Path(package.origin).parent / "static" / asset, media_type=ASSETS[asset],
                        headers={"cache-control": "max-age=86400"})


@cache
def _asking() -> CapacityLimiter:
    """A thread of its own: those of the other routes may all be waiting for the database."""
    return CapacityLimiter(1)


@routes.get("/health", tags=["service"], openapi_extra=OPEN, responses=answers(Health))
async def health(request: Request) -> Response:
    """Is it alive, is it ready, and how large a picture does it take. Needs no key."""
    door = door_of(request)
    checks = await _checks(door)
    return json_answer({"status": "ok", "ready": set(checks.values()) == {"ok"}, "checks": checks,
                        "max_inline_bytes": door.limits.max_bytes, "version": __version__})


@routes.get("/health/live", tags=[ON_PREM], openapi_extra=OPEN, responses=answers(Alive))
async def live(request: Request) -> Response:
    """Whether it answers: if not, start it anew. Needs no key, and asks nothing else."""
    return json_answer({"status": "ok"})


@routes.get("/health/ready", tags=[ON_PREM], openapi_extra=OPEN, responses=answers(Ready))
async def ready(request: Request) -> Response:
    """Whether requests should be sent here: 503 while the database is away. Needs no key."""
    checks = await _checks(door_of(request))
    away = [name for name, state in checks.items() if state != "ok"]
    if away:
        return problem_answer(503, request_id_of(request), detail=f"Not ready: {', '.join(away)}. Send requests here later.")
    return json_answer({"status": "ok", "checks": checks})


async def _checks(door: Door) -> dict[str, str]:
    """A database that says nothing at all is away, too."""
    storage = "unavailable"
    with move_on_after(PATIENCE_S):
        storage = await to_thread.run_sync(door.storage.state, limiter=_asking(), abandon_on_cancel=True)
    return {"model": "ok", "storage": storage}
