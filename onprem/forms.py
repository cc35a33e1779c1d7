"""POST /uploads: a form with which a picture can be sent later, without a key; and the route that such forms lead to."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from onprem.answers import json_answer, request_id_of
from onprem.docs import ANNOUNCEMENT, FORM, ON_PREM, answers
from onprem.door import Door, door_of
from onprem.policies import BadForm, Policy
from onprem.schemas import Form
from onprem.spools import Received, ReceivedFile
from shutterless.bodies import FORM_BYTES
from shutterless.errors import BadRequest, NotFound, TooLarge, UnsupportedPicture
from shutterless.formats import refusal, sniff
from shutterless.uploads import FORM_S, GRACE_S, NEVER_ARRIVED, Announcement, form_answer, read_announcement
from shutterless.uploads import request_id_of as id_in_key

if TYPE_CHECKING:
    from shutterless.results import Record

PATH = "/uploads/form"  # open to all: a form's signature is its key
MAX_FIELDS = 16

routes = APIRouter()


@routes.post("/uploads", tags=["results"], status_code=201, openapi_extra=ANNOUNCEMENT,
             responses=answers(Form, 408, 413, 415, 422, success=201, kept=True))
async def give_form(request: Request) -> Response:
    """Announce one picture: the answer is a form that takes exactly this picture, for a quarter of an hour and without a key, and
    its result is pending from now on. The way for pictures beyond `max_inline_bytes`, and for browsers."""
    door, request_id = door_of(request), request_id_of(request)
    url = (door.settings.public_url or str(request.base_url)).rstrip("/") + PATH
    expires_at = datetime.now(UTC) + timedelta(seconds=FORM_S)
    async with door.intake.body(request) as body:
        announced = read_announcement(body, door.limits.max_bytes)
        fields = await run_in_threadpool(_announce, door, request_id, announced, expires_at, request.state.holder)
    return json_answer(form_answer(announced, request_id, {"url": url, "fields": fields}, expires_at), status=201,
                       headers={"location": f"/results?request_id={request_id}", "cache-control": "no-store"})


def _announce(door: Door, request_id: str, announced: Announcement, expires_at: datetime, holder: bytes | None) -> dict[str, str]:
    """A row that waits for the picture, and the fields that let it in."""
    fields = door.policies.fields(Policy(key=announced.key(request_id), content_type=announced.format.content_type,
                                         size_bytes=announced.size_bytes, expires_at=expires_at))
    door.pending.admit()
    with door.announced.place(request_id, holder):
        door.storage.results.add_pending(request_id, announced.arrival(request_id), expected_s=FORM_S + GRACE_S)
    return fields


@routes.post(PATH, tags=[ON_PREM], status_code=204, openapi_extra=FORM, responses=answers(None, 400, 404, 408, 413, 415, 422))
async def take_form(request: Request) -> Response:
    """Where the forms of POST /uploads lead: all fields as they were given, then the picture as `file`. Sent twice, it is taken
    once."""
    door = door_of(request)
    await run_in_threadpool(lambda: door.policies.secret)  # read from a file at its first use
    policies: list[Policy] = []

    def room(form: Received) -> int:
        if policies:
            raise BadRequest("The form: expected one file, got more. Send the picture alone.")
        policies.append(_policy_of(door, form))
        reception.enter_context(door.reception.of(_request_id(policies[0])))
        return policies[0].size_bytes

    with ExitStack() as reception:
        async with door.form_spools.received(request, max_bytes=door.limits.max_bytes + FORM_BYTES, on_file=room,
                                             max_fields=MAX_FIELDS) as form:
            if not policies:
                raise BadRequest("The form: expected a field `file` with the picture, got none. Send it after the other fields.")
            await run_in_threadpool(_store, door, policies[0], form, form.files[0])
    door.worker.wake()
    return Response(status_code=204, headers={"location": f"/results?request_id={_request_id(policies[0])}"})


def _request_id(policy: Policy) -> str:
    return id_in_key("", policy.key, None)[0]


def _policy_of(door: Door, form: Received) -> Policy:
    """Before a byte of the file is taken. Raises HTTP 403."""
    fields = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in form.fields}
    try:
        return door.policies.read(fields, datetime.now(UTC))
    except BadForm as refused:
        raise HTTPException(403, str(refused)) from None


def _store(door: Door, policy: Policy, form: Received, file: ReceivedFile) -> None:
    """The picture, then the row that waits for it, each on the disk before the next step. Blocks."""
    picture = _picture(policy, form, file)
    request_id, results, objects = _request_id(policy), door.storage.results, door.storage.objects
    if not _is_awaited(results.get(request_id)):
        return
    version = objects.put(policy.key, picture, policy.content_type)
    if not results.arrive(request_id, version=version, image_name=file.filename):
        record = results.get(request_id)
        if record is None or record.error == NEVER_ARRIVED:
            objects.delete(policy.key)
        _is_awaited(record)
        return
    door.tallies.accepted()


def _is_awaited(record: Record | None) -> bool:
    """False: it came before, which is as good. Raises NotFound where nobody waits for it any longer."""
    if record is None or record.error == NEVER_ARRIVED:
        why = "its result was deleted" if record is None else "it came too late"
        raise NotFound(f"Nobody waits for this picture any longer: {why}. Ask POST /uploads for a new form.")
    return record.is_expected


def _picture(policy: Policy, form: Received, file: ReceivedFile) -> bytes:
    """Raises TooLarge, BadRequest or BadPicture where it is not the one that was announced."""
    if not file.is_kept:
        raise TooLarge(f"Expected the {policy.size_bytes:,} bytes that were announced, got more. "
                       "Announce the picture that you send.")
    if file.length < policy.size_bytes:
        raise BadRequest(f"file: expected the {policy.size_bytes:,} bytes that were announced, got {file.length:,}. "
                         "Send the picture whole.")
    picture = form.read(file)
    found = sniff(picture)
    if found is None:
        raise refusal(picture)
    if found.content_type != policy.content_type:
        raise UnsupportedPicture(f"Expected a picture of type {policy.content_type}, as announced, got {found.name}. "
                                 "Announce the picture that you send.")
    return picture
