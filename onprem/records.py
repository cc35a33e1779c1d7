"""GET and DELETE /results, GET /stats: what became of the uploads."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import JsonValue

from onprem.answers import RETRY_AFTER_S, json_answer
from onprem.docs import PICTURE_ANSWER, answers
from onprem.door import door_of
from onprem.machine import system_resources
from onprem.schemas import Records, Stats
from shutterless.errors import NotFound
from shutterless.statuses import STATUSES

if TYPE_CHECKING:
    from shutterless.results import Record

UNKNOWN = "There is no result with this request_id. Take the request_id from the answer to the upload."
RESULTS: list[str | Enum] = ["results"]  # the tag
TIME: dict[str, JsonValue] = {"format": "date-time"}

routes = APIRouter()
RequestId = Annotated[str, Path(min_length=1, max_length=200)]


@routes.get("/results", tags=RESULTS, responses=answers(Records, 404, 422, 503))
def results(request: Request,
            request_id: Annotated[str | None, Query(description="This one result only")] = None,
            limit: Annotated[int, Query(ge=1, le=100)] = 20,
            cursor: Annotated[str | None, Query(description="next_cursor of the page before")] = None,
            label: Annotated[str | None, Query(description="Only this predicted label")] = None,
            status: Annotated[str | None, Query(json_schema_extra={"enum": [*STATUSES]})] = None,
            from_: Annotated[str | None, Query(alias="from", description="Earliest arrival", json_schema_extra=TIME)] = None,
            to: Annotated[str | None, Query(description="Arrival before this", json_schema_extra=TIME)] = None,
            ) -> Response:
    """One result by its request_id, or a page of results, newest first. A pending one says when to ask again."""
    from shutterless.results import parse_time

    storage = door_of(request).storage
    if request_id is not None:
        return _one(storage.results.get(request_id))
    page = storage.results.page(  # an empty field is one that was not filled in
        limit=limit, cursor=cursor or None, label=label or None, status=status or None,
        from_=parse_time(from_, "from") if from_ else None, to=parse_time(to, "to") if to else None)
    return json_answer({"count": len(page.records), "results": [record.to_json_dict() for record in page.records],
                        "next_cursor": page.next_cursor})


def _one(record: Record | None) -> Response:
    if record is None:
        raise NotFound(UNKNOWN)
    headers = {"retry-after": str(RETRY_AFTER_S)} if record.status == "pending" else None
    return json_answer({"count": 1, "results": [record.to_json_dict()]}, headers=headers)


@routes.get("/results/{request_id}/image", tags=RESULTS, responses=PICTURE_ANSWER | answers(None, 404, 422, 503))
def image(request: Request, request_id: RequestId) -> Response:
    """The picture, byte for byte as it was sent."""
    storage = door_of(request).storage
    record = storage.results.get(request_id)
    if record is None or record.object_key is None:
        raise NotFound(UNKNOWN)
    picture = storage.objects.get(record.object_key, record.object_version)
    return Response(picture, media_type=record.content_type, headers={
        "x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox",
        "cache-control": "private, max-age=3600"})


@routes.delete("/results/{request_id}", tags=RESULTS, status_code=204, responses=answers(None, 404, 422, 503))
def delete(request: Request, request_id: RequestId) -> Response:
    """Forget a picture and its record."""
    storage = door_of(request).storage
    record = storage.results.get(request_id)
    if record is None:
        raise NotFound(UNKNOWN)
    if record.object_key is not None:
        storage.objects.delete(record.object_key)  # first: a crash now leaves a record that can be deleted again
    storage.results.delete(request_id)
    return Response(status_code=204)


@routes.get("/stats", tags=["service"], responses=answers(Stats, 422, 503))
def stats(request: Request,
          bucket: Annotated[int, Query(ge=1, le=31 * 86_400, description="Seconds of one step of latency")] = 3600,
          ) -> Response:
    """How many, of which labels, how fast, how right, and what this machine is doing."""
    return json_answer(door_of(request).storage.results.stats(bucket) | {"system_resources": system_resources()})
