"""What clients ask of the results and what they are told: the same behind every door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shutterless.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from shutterless.objects import Objects
    from shutterless.results import Record, Results

UNKNOWN = "There is no result with this request_id. Take the request_id from the answer to the upload."
PAGE = 20  # records
BUCKET_S = 3600
MAX_BUCKET_S = 31 * 86_400
MAX_PAGE = 100
MAX_NUMBER = 10**12 - 1
RETRY_AFTER_S = 1
# Of a stored picture: a browser shows it as what it is, or not at all, and runs nothing in it.
PICTURE_HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox",
                   "cache-control": "private, max-age=3600"}


def find(results: Results, asked: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """GET /results: its body and headers, by the fields of the query: `request_id`, else `id`, else `limit`, `cursor`,
    `label`, `status`, `from`, `to`, where an empty one counts as not filled in. Raises NotFound, BadRequest: also for a field
    that plays no part."""
    from shutterless.results import expect_status, parse_time

    limit = _integer(asked, "limit", PAGE, MAX_PAGE)
    number = _read("id", asked["id"], MAX_NUMBER) if asked.get("id") else None
    from_, to = (parse_time(asked[name], name) if asked.get(name) else None for name in ("from", "to"))
    status = asked.get("status") or None
    expect_status(status)
    if asked.get("request_id"):
        return _alone(existing(results, asked["request_id"]))
    if number is not None:
        return _alone(_numbered(results, number))
    page = results.page(limit=limit, cursor=asked.get("cursor") or None, label=asked.get("label") or None,
                        status=status, from_=from_, to=to)
    return {"count": len(page.records), "results": [record.to_json_dict() for record in page.records],
            "next_cursor": page.next_cursor}, {}


def _alone(record: Record) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {"retry-after": str(RETRY_AFTER_S)} if record.status == "pending" else {}
    return {"count": 1, "results": [record.to_json_dict()]}, headers


def _numbered(results: Results, number: int) -> Record:
    record = results.get_numbered(number)
    if record is None:
        raise NotFound("There is no result with this id. Take the prediction_id from the answer to the upload.")
    return record


def existing(results: Results, request_id: str) -> Record:
    """The record of this request_id. Raises NotFound."""
    record = results.get(request_id)
    if record is None:
        raise NotFound(UNKNOWN)
    return record


def picture_of(results: Results, request_id: str) -> tuple[str, Record]:
    """The key of a result's picture, and its record. Raises NotFound."""
    record = existing(results, request_id)
    if record.object_key is None:
        raise NotFound(UNKNOWN)
    return record.object_key, record


def forget(results: Results, objects: Objects, request_id: str) -> None:
    """DELETE /results/{request_id}: the picture, then its record. Raises NotFound."""
    record = existing(results, request_id)
    if record.object_key is not None:
        objects.delete(record.object_key)  # first: a crash now leaves a record that can be deleted again
    deleted = results.delete(request_id)
    if deleted is not None and record.is_expected and record.object_key is not None:
        objects.delete(record.object_key)  # it may have come in between


def statistics(results: Results, asked: Mapping[str, str]) -> dict[str, Any]:
    """GET /stats: all of its body that does not depend on the machine, by the query's field `bucket`, in seconds."""
    return results.stats(_integer(asked, "bucket", BUCKET_S, MAX_BUCKET_S))


def _integer(asked: Mapping[str, str], name: str, default: int, most: int) -> int:
    return _read(name, asked[name], most, f", or leave it out for {default}") if asked.get(name) else default


def _read(name: str, text: str, most: int, or_else: str = "") -> int:
    if not (text.isdecimal() and text.isascii() and len(text) <= 12 and 1 <= int(text) <= most):
        raise BadRequest(f"{name}: expected an integer from 1 to {most}, got {text[:40]!r}. Correct it{or_else}.")
    return int(text)
