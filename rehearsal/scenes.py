"""What clients do with the deployed system, scene by scene, each looked at from both ends: the answer, and what is kept."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from rehearsal.account import Account
from rehearsal.client import JPEG, Answer, Client, bomb, form, request, tile
from rehearsal.crowd import Crowd, Sender
from rehearsal.emulator_process import ROOT
from rehearsal.letters import wait_until_drained
from rehearsal.watched import CheckFailed, Step, expect
from shutterless.bundles import find_bundle, read_bundle
from shutterless.classifier import Classifier, Prediction

MODEL = "eurosat-lite0"
CROWD, COPIES = 200, 3  # clients with a picture each; copies of upload that answer them
CROWD_S = 300.0


class Scenes:
    """client: one with the key. account: the same system from the inside."""

    def __init__(self, client: Client, account: Account) -> None:
        self.client, self.account = client, account

    def all(self) -> Iterator[tuple[str, Callable[[Step], None]]]:
        """Name and function of each, in the order in which they build on each other."""
        yield "predict: raw, multipart and JSON give the same answer as on this machine", self.predict
        yield "a wrong key, no key, and what needs none", self.keys
        yield "a preflight is answered without a key, and names what may be asked", self.preflight
        yield "upload -> S3 -> SQS -> infer -> PostgreSQL -> results", self.upload
        yield "the stored picture, by a redirect to S3", self.picture
        yield "a presigned form -> S3 -> SQS -> infer -> results", self.presigned
        yield "a form that is replayed changes nothing", self.replay
        yield "hostile pictures are refused, or recorded as failed and not tried again", self.hostile
        yield "deleting takes picture and record away", self.delete
        yield f"{CROWD} uploads at once, counted row by row", self.crowd

    def predict(self, step: Step) -> None:
        picture = tile(1)
        raw = self.client.ask("POST", "/predict", picture, expect=200, content_type=JPEG).json()
        body, kind = form({}, picture)
        multipart = self.client.ask("POST", "/predict", body, expect=200, content_type=kind).json()
        in_json = self.client.ask("POST", "/predict", _in_json(picture), expect=200, content_type="application/json").json()
        here = _here(picture)
        for name, answer in (("raw", raw), ("multipart", multipart), ("JSON", in_json)):
            expect(answer["label"] == here.label and abs(answer["confidence"] - here.confidence) < 1e-5,
                   f"{name}: expected {here.label} at {here.confidence}, got {answer['label']} at {answer['confidence']}")
        step.notes.append(f"{raw['label']}, {raw['model']['name']}/{raw['model']['version']}")

    def keys(self, step: Step) -> None:
        stranger = Client(self.client.base, "not-the-key")
        nobody = Client(self.client.base, None)
        for who in (stranger, nobody):
            answer = who.ask("GET", "/results", expect=403)
            expect(answer.headers.get("content-type", "").startswith("application/problem+json"),
                   f"expected a problem, got {answer.headers.get('content-type')}")
        expect(nobody.ask("GET", "/health", expect=200).json()["max_inline_bytes"] > 0, "expected /health without a key")
        step.notes.append("403, 403, and 200 for /health")

    def preflight(self, step: Step) -> None:
        nobody = Client(self.client.base, None)
        other = nobody.ask("OPTIONS", "/predict", origin="https://elsewhere.example", access_control_request_method="POST")
        expect(other.headers.get("access-control-allow-origin") not in ("*", "https://elsewhere.example"),
               f"expected no other origin to be let in, got {other.headers.get('access-control-allow-origin')}")
        expect(other.status in (200, 204) and "POST" in other.headers.get("access-control-allow-methods", ""),
               f"expected the methods that may be used, got {other.status} {dict(other.headers)}")

    def upload(self, step: Step) -> None:
        picture = tile(2)
        request_id = self.client.upload(picture, "?true_label=Forest")
        record = self.client.outcome(request_id)
        here = _here(picture)
        expect(record["status"] == "done" and record["predicted_label"] == here.label,
               f"expected done, {here.label}, got {record['status']}, {record['predicted_label']}: {record['error']}")
        rows = self.account.rows("SELECT status, true_label FROM results WHERE request_id = %s", request_id)
        expect(rows == [("done", "Forest")], f"expected one row, done, Forest, got {rows}")
        self._picture, self._request_id = picture, request_id
        step.notes.append(f"{record['predicted_label']}, {record['queue_ms']:.0f} ms in the queue")

    def picture(self, step: Step) -> None:
        answer = self.client.ask("GET", f"/results/{self._request_id}/image")
        expect(answer.status in (302, 303, 307), f"expected a redirect, got {answer.status}")
        stored = request("GET", answer.headers["location"])
        expect(stored.status == 200 and stored.body == self._picture, f"expected the picture, got {stored.status}")

    def presigned(self, step: Step) -> None:
        picture = tile(3)
        self._form = self._ask_for_form(picture)
        posted = self._post(self._form, picture)
        expect(posted.status in (200, 201, 204), f"expected S3 to take the picture, got {posted.status} {posted.body[:300]!r}")
        record = self.client.outcome(self._form["request_id"])
        expect(record["status"] == "done", f"expected done, got {record['status']}: {record['error']}")

    def replay(self, step: Step) -> None:
        before = self.client.record(self._form["request_id"])
        self._post(self._form, tile(3))
        wait_until_drained(self.account)
        after = self.client.record(self._form["request_id"])
        kept = ("status", "predicted_label", "confidence", "finished_at")
        expect([before[name] for name in kept] == [after[name] for name in kept], f"expected {before}, got {after}")
        rows = self.account.rows("SELECT count(*) FROM results WHERE request_id = %s", self._form["request_id"])
        expect(rows == [(1,)], f"expected one row, got {rows}")

    def hostile(self, step: Step) -> None:
        refused = {"a bomb": (bomb(), "image/png", (400, 413)), "half a picture": (tile(4)[:300], JPEG, (400,)),
                   "text": (b"not a picture", JPEG, (400, 415)), "nothing": (b"", JPEG, (400, 415, 422))}
        for name, (picture, kind, statuses) in refused.items():
            answer = self.client.ask("POST", "/predict", picture, content_type=kind)
            expect(answer.status in statuses, f"{name}: expected one of {statuses}, got {answer.status} {answer.body[:200]!r}")
            expect(b"Traceback" not in answer.body, f"{name}: expected a sentence, got a stack trace")
        half = tile(4)[:-200]
        sent = self._ask_for_form(half)
        self._post(sent, half)
        record = self.client.outcome(sent["request_id"])
        expect(record["status"] == "failed" and bool(record["error"]), f"expected failed with a reason, got {record}")
        wait_until_drained(self.account)
        step.notes.append(f"recorded as: {record['error']['title'] if isinstance(record['error'], dict) else record['error']}")

    def delete(self, step: Step) -> None:
        self.client.ask("DELETE", f"/results/{self._request_id}", expect=204)
        self.client.ask("GET", f"/results?request_id={self._request_id}", expect=404)
        keys = [entry["Key"] for entry in self.account.pages("s3", "list_objects_v2", "Contents", Bucket=self.account.uploads)]
        expect(not any(self._request_id in key for key in keys), f"expected no picture of {self._request_id} in the bucket")
        rows = self.account.rows("SELECT count(*) FROM results WHERE request_id = %s", self._request_id)
        expect(rows == [(0,)], f"expected no row, got {rows}")

    def crowd(self, step: Step) -> None:
        """All at the same moment. Of upload, few copies may work: more would only keep two cores busy with starting."""
        dead, [(before,)] = self.account.waiting(self.account.dead_letters), self.account.rows("SELECT count(*) FROM results")
        senders = [Sender(tile(1000 + number)) for number in range(CROWD)]
        with self._copies("upload", COPIES):
            Crowd(self.client, senders).send()
        self._wait_until_done([sender.request_id for sender in senders])
        rows = {request_id: (status, label, confidence) for request_id, status, label, confidence in self.account.rows(
            "SELECT request_id::text, status, predicted_label, confidence FROM results WHERE request_id::text = ANY(%s)",
            [sender.request_id for sender in senders])}
        expect(len(rows) == CROWD, f"expected {CROWD} rows, got {len(rows)}")
        for sender in senders:
            here, (status, label, confidence) = _here(sender.picture), rows[sender.request_id]
            expect(status == "done" and label == here.label and abs(confidence - here.confidence) < 1e-5,
                   f"{sender.request_id}: expected done, {here.label} at {here.confidence}, got {status}, {label}, {confidence}")
        wait_until_drained(self.account)
        expect(self.account.waiting(self.account.dead_letters) == dead, "expected no new dead letter")
        [(after,)] = self.account.rows("SELECT count(*) FROM results")
        away, lost = sum(sender.turned_away for sender in senders), sum(sender.lost for sender in senders)
        expect(0 <= after - before - CROWD <= lost,
               f"expected {CROWD} new rows, and at most {lost} of uploads whose answer was lost, got {after - before}")
        step.notes.append(f"{CROWD} rows, each once, each with this machine's answer; turned away, and come again, {away} times"
                          + (f"; {lost} answers were lost" if lost else ""))

    @contextmanager
    def _copies(self, function: str, most: int) -> Iterator[None]:
        """As an operator throttles: of this function no more copies at work than so many."""
        client, name = self.account.client("lambda"), self.account.function(function)["FunctionName"]
        client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=most)
        try:
            yield
        finally:
            client.delete_function_concurrency(FunctionName=name)

    def _wait_until_done(self, ids: list[str]) -> None:
        deadline, counted = time.monotonic() + CROWD_S, [("", 0)]
        while counted != [("done", len(ids))]:
            if time.monotonic() > deadline:
                raise CheckFailed(f"expected {len(ids)} rows done within {CROWD_S:.0f} s, got {counted}")
            time.sleep(1)
            counted = self.account.rows("SELECT status, count(*) FROM results WHERE request_id::text = ANY(%s) GROUP BY status",
                                        ids)

    def _ask_for_form(self, picture: bytes) -> dict[str, Any]:
        asked = json.dumps({"content_type": JPEG, "size_bytes": len(picture)}).encode()
        return dict(self.client.ask("POST", "/uploads", asked, expect=201, content_type="application/json").json())

    def _post(self, sent: dict[str, Any], picture: bytes) -> Answer:
        body, kind = form(sent["fields"], picture)
        expect(urlsplit(sent["url"]).hostname == self.account.place.address, f"expected a form for S3, got {sent['url']}")
        return request("POST", sent["url"], body, {"Content-Type": kind})


def _in_json(picture: bytes) -> bytes:
    return json.dumps({"image_b64": b64encode(picture).decode()}).encode()


@cache
def _classifier() -> Classifier:
    return Classifier(read_bundle(find_bundle(MODEL, ROOT / "models")))


def _here(picture: bytes) -> Prediction:
    """What the core answers on this machine, without any door."""
    return _classifier().predict(picture).prediction
