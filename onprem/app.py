"""The on-prem door, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio.to_thread
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from onprem import answers, batches, docs, forms, metrics, pages, predictions, records, uploads
from onprem.door import build_door
from onprem.envelope import Envelope
from onprem.keys import Keys
from onprem.lingering import Lingering
from onprem.rates import Rates
from shutterless import __version__
from shutterless.settings import Settings

Layer = Callable[[ASGIApp], ASGIApp]

MODULES = (predictions, uploads, batches, forms, records, pages, metrics)
IO_THREADS = 8  # that wait for the database and for storage; FastAPI's default of 40 is more than both can serve

NOBODY_LISTENS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}  # else it looks who does, each request


def create_app(settings: Settings) -> App:
    """The app, its default model open and warm. Raises BadBundle or NotFound when that model must not be served,
    BadSettings for a file of keys without one."""
    keys = Keys(settings.api_keys, settings.api_keys_file)
    app = describe(locked=not keys.is_open)
    app.state.door = build_door(settings)
    app.state.door.tallies.paths = plain_paths()
    answers.handle_errors(app)
    layers: list[Layer] = [  # innermost first
        partial(Envelope, keys=keys, metrics_key=settings.metrics_key, rates=Rates(settings.rate_per_s, settings.rate_burst),
                tallies=app.state.door.tallies),
        Lingering]
    if settings.cors_origins:  # outermost: a preflight needs no key, and errors carry CORS
        layers.append(partial(CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST", "DELETE"],
                              allow_headers=["x-api-key"],
                              expose_headers=["X-Request-Id", "Server-Timing", "Retry-After", "Location"]))
    app.enclose(layers)
    return app


class App(FastAPI):
    """FastAPI with a way past it for POST /predict without a query. To find the route, to read the query and to stack up error
    handlers would take longer than all else that our code does for a prediction on the event loop: 100 us, and 55."""

    _shortcut: ASGIApp | None = None

    def enclose(self, layers: Sequence[Layer]) -> None:
        """Put these around all routes, and around the short way as well. Innermost first."""
        shortcut: ASGIApp = predictions.shortcut
        for layer in layers:
            self.add_middleware(layer)
            shortcut = layer(shortcut)
        self._shortcut = shortcut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._shortcut and scope.get("method") == "POST" and scope["path"] == "/predict" and not scope["query_string"]:
            scope["app"] = self
            await self._shortcut(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def describe(*, locked: bool = True) -> App:
    """The app with its routes, and nothing behind them. locked: whether its document asks for a key."""
    app = App(title="Shutterless", version=__version__, description="One picture in, one label out.",
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
