"""query: what became of the pictures. GET and DELETE /results, GET /stats."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from lambdas.answers import Answer
from lambdas.door import Door, serve
from lambdas.events import Request
from lambdas.machine import system_resources
from lambdas.storage import Storage, is_container, open_here
from shutterless import records
from shutterless.errors import NotFound
from shutterless.expiry import expire_late
from shutterless.formats import FORMATS
from shutterless.settings import Settings

LINK_S = 300  # how long the address of a picture works
_PICTURES = {format.content_type for format in FORMATS}


def find(request: Request, storage: Storage) -> Answer:
    """One result, or a page of them."""
    expire_late(storage.results, lambda: storage.objects)
    body, headers = records.find(storage.results, request.query)
    return Answer(body=body, headers=headers)


def image(request: Request, storage: Storage) -> Answer:
    """A redirect to the picture as it is stored. S3 says of it what its bytes were found to be: a browser shows a picture, and
    offers anything else as a file."""
    key, record = records.picture_of(storage.results, request.parameters["request_id"])
    objects = storage.objects
    if not objects.has(key, record.object_version):
        raise NotFound("The picture is not stored. It was deleted, or never came.")
    is_picture = record.content_type in _PICTURES
    link = objects.link(key, record.object_version, LINK_S, ResponseCacheControl="private, max-age=3600",
                        ResponseContentType=str(record.content_type) if is_picture else "application/octet-stream",
                        ResponseContentDisposition="inline" if is_picture else "attachment")
    return Answer(status=302, headers={"location": link, "cache-control": "private, no-store"})


def delete(request: Request, storage: Storage) -> Answer:
    """Forget a picture and its record; the bucket's lifecycle takes the old version away."""
    records.forget(storage.results, storage.objects, request.parameters["request_id"])
    return Answer(status=204)


def stats(request: Request, storage: Storage) -> Answer:
    """Counts, labels, latency, accuracy, and what this container is doing."""
    expire_late(storage.results, lambda: storage.objects)
    return Answer(body=records.statistics(storage.results, request.query) | {"system_resources": system_resources()})


def open_door(settings: Settings, storage: Storage) -> Door:
    """The routes of this function."""
    routes = {("GET", "/results"): find, ("GET", "/results/{request_id}/image"): image,
              ("DELETE", "/results/{request_id}"): delete, ("GET", "/stats"): stats}
    return Door(function="query", bare_path="/results", settings=settings, routes={
        where: partial(answer, storage=storage) for where, answer in routes.items()})


@cache
def _door() -> Door:
    return open_here(open_door)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(event, context, _door())


if is_container():
    _door()
