"""GET /metrics: what Prometheus scrapes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import APIRouter, Request, Response

from onprem.door import Door, door_of
from shutterless.errors import Unavailable

if TYPE_CHECKING:
    from shutterless.results import Backlog

DATABASE_S = 3.0  # to ask it; Prometheus gives a scrape ten

routes = APIRouter()


@cache
def _scraping() -> CapacityLimiter:
    """A thread of its own: those of the other routes may all be waiting for the database."""
    return CapacityLimiter(1)


@routes.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Counts, times and the queue. A database that does not answer is told as storage_up 0, and hides nothing else."""
    door, backlog = door_of(request), None
    with move_on_after(DATABASE_S):
        backlog = await to_thread.run_sync(_backlog, door, limiter=_scraping(), abandon_on_cancel=True)
    body, content_type = await to_thread.run_sync(_exposed, door, backlog, request.headers.get("accept", ""),
                                                  limiter=_scraping())
    return Response(body, media_type=content_type)


def _backlog(door: Door) -> Backlog | None:
    try:
        return door.storage.results.backlog() if door.storage.state() == "ok" else None
    except Unavailable:
        return None


def _exposed(door: Door, backlog: Backlog | None, accept: str) -> tuple[bytes, str]:
    from onprem.exposition import expose

    return expose(door, backlog, accept)
