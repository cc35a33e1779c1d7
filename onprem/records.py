"""GET and DELETE /results, GET /stats: what became of the uploads. Parameters are declared here for /openapi.json, and
read by the core."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from onprem.answers import json_answer
from onprem.docs import PICTURE_ANSWER, answers, fillable
from onprem.door import door_of
from onprem.machine import system_resources
from onprem.schemas import Records, Stats
from shutterless import records
from shutterless.statuses import STATUSES

RESULTS: list[str | Enum] = ["results"]  # the tag
ANY = fillable(type="string")
NUMBER = fillable(type="integer", minimum=1, maximum=records.MAX_NUMBER)
LIMIT = fillable(type="integer", minimum=1, maximum=records.MAX_PAGE, default=records.PAGE)
BUCKET = fillable(type="integer", minimum=1, maximum=records.MAX_BUCKET_S, default=records.BUCKET_S)
STATUS = fillable(type="string", enum=[*STATUSES])
TIME = fillable(type="string", format="date-time")

routes = APIRouter()
RequestId = Annotated[str, Path(min_length=1, max_length=200)]


@routes.get("/results", tags=RESULTS, responses=answers(Records, 404, 422, 503))
def results(request: Request,
            request_id: Annotated[str | None, Query(description="This one result only", json_schema_extra=ANY)] = None,
            id: Annotated[str | None, Query(description="This one result only, by its number", json_schema_extra=NUMBER)] = None,
            limit: Annotated[str | None, Query(json_schema_extra=LIMIT)] = None,
            cursor: Annotated[str | None, Query(description="next_cursor of the page before", json_schema_extra=ANY)] = None,
            label: Annotated[str | None, Query(description="Only this predicted label", json_schema_extra=ANY)] = None,
            status: Annotated[str | None, Query(json_schema_extra=STATUS)] = None,
            from_: Annotated[str | None, Query(alias="from", description="Earliest arrival", json_schema_extra=TIME)] = None,
            to: Annotated[str | None, Query(description="Arrival before this", json_schema_extra=TIME)] = None,
            ) -> Response:
    """One result by its request_id or its number, or a page of results, newest first. A pending one says when to ask again."""
    body, headers = records.find(door_of(request).storage.results, request.query_params)
    return json_answer(body, headers=headers)


@routes.get("/results/{request_id}/image", tags=RESULTS, responses=PICTURE_ANSWER | answers(None, 404, 422, 503))
def image(request: Request, request_id: RequestId) -> Response:
    """The picture, byte for byte as it was sent."""
    storage = door_of(request).storage
    key, record = records.picture_of(storage.results, request_id)
    return Response(storage.objects.get(key, record.object_version), media_type=record.content_type,
                    headers=records.PICTURE_HEADERS)


@routes.delete("/results/{request_id}", tags=RESULTS, status_code=204, responses=answers(None, 404, 422, 503))
def delete(request: Request, request_id: RequestId) -> Response:
    """Forget a picture and its record."""
    storage = door_of(request).storage
    records.forget(storage.results, storage.objects, request_id)
    return Response(status_code=204)


@routes.get("/stats", tags=["service"], responses=answers(Stats, 422, 503))
def stats(request: Request,
          bucket: Annotated[str | None, Query(description="Seconds of one step of latency", json_schema_extra=BUCKET)] = None,
          ) -> Response:
    """How many, of which labels, how fast, how right, and what this machine is doing."""
    counted = records.statistics(door_of(request).storage.results, request.query_params)
    return json_answer(counted | {"system_resources": system_resources()})
