"""The on-prem door, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.cors import CORSMiddleware

from onprem import answers, batches, docs, forms, metrics, pages, predictions, records, uploads
from onprem.door import build_door
from onprem.envelope import Envelope, Gate
from onprem.express import Express
from onprem.keys import Keys
from onprem.lingering import Lingering
from onprem.rates import Rates
from shutterless import __version__
from shutterless.settings import Settings

MODULES = (predictions, uploads, batches, forms, records, pages, metrics)
IO_THREADS = 8  # that wait for the database and for storage; FastAPI's default of 40 is more than both can serve

NOBODY_LISTENS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # else it looks who does, each request


def create_app(settings: Settings) -> FastAPI:
    """The app, its default model open and warm. Raises BadBundle or NotFound when that model must not be served,
    BadSettings for a file of keys without one."""
    keys = Keys(settings.api_keys, settings.api_keys_file)
    app = describe(locked=not keys.is_open)
    door = app.state.door = build_door(settings)
    door.tallies.paths = plain_paths()
    gate = Gate(keys=keys, metrics_key=settings.metrics_key, rates=Rates(settings.rate_per_s, settings.rate_burst))
    app.state.express = Express(door, gate, has_cors=bool(settings.cors_origins))
    answers.handle_errors(app)
    app.add_middleware(Envelope, gate=gate, tallies=door.tallies)  # innermost first
    app.add_middleware(Lingering)
    if settings.cors_origins:  # outermost: a preflight needs no key, and errors carry CORS
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST", "DELETE"],
                           allow_headers=["x-api-key"],
                           expose_headers=["X-Request-Id", "Server-Timing", "Retry-After", "Location"])
    return app


def describe(*, locked: bool = True) -> FastAPI:
    """The app with its routes, and nothing behind them. locked: whether its document asks for a key."""
    app = FastAPI(title="Shutterless", version=__version__, description="One picture in, one label out.",
              docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=_lifespan, telemetry=NOBODY_LISTENS)
    for module in MODULES:
        app.include_router(module.routes)
    app.openapi = lambda: docs.document(app, locked=locked)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def plain_paths() -> frozenset[str]:
    """Of all routes without a parameter."""
    paths = (getattr(route, "path", "{") for module in MODULES for route in module.routes.routes)
    return frozenset(path for path in paths if "{" not in path)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = IO_THREADS
    app.state.door.start()
    yield
    await anyio.to_thread.run_sync(app.state.door.stop)
