"""What clients do with the deployed system, scene by scene, each looked at from both ends: the answer, and what is kept."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from rehearsal.account import Account
from rehearsal.client import Answer, Client, bomb, form, request, tile
from rehearsal.emulator_process import ROOT
from rehearsal.watched import CheckFailed, Step, expect
from shutterless.bundles import find_bundle, read_bundle
from shutterless.classifier import Classifier, Prediction

JPEG = "image/jpeg"
MODEL = "eurosat-lite0"
CROWD, AT_ONCE = 200, 4  # pictures; clients that send, as many as a laptop starts functions for without time-outs
CROWD_S, DEAD_S = 300.0, 120.0
ROOM_S = 60.0  # how long a client comes again before it gives up
BUSY = (429, 500, 502, 503, 504)  # what API Gateway says where a function has no room; clients come again


class Scenes:
    """client: one with the key. account: the same system from the inside."""

    def __init__(self, client: Client, account: Account) -> None:
        self.client, self.account = client, account
        self._sent_again: list[int] = []  # statuses for which an upload was sent once more

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
        yield "a poisoned message ends in the dead letters", self.poison
        yield "what failed while the database refused infer is redriven and done", self.redrive
        yield f"{CROWD} uploads by {AT_ONCE} clients at once, counted row by row", self.crowd

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
        request_id = self._upload(picture, "?true_label=Forest")
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
        self._wait_until_drained()
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
        self._wait_until_drained()
        step.notes.append(f"recorded as: {record['error']['title'] if isinstance(record['error'], dict) else record['error']}")

    def delete(self, step: Step) -> None:
        self.client.ask("DELETE", f"/results/{self._request_id}", expect=204)
        self.client.ask("GET", f"/results?request_id={self._request_id}", expect=404)
        keys = [entry["Key"] for entry in self.account.pages("s3", "list_objects_v2", "Contents", Bucket=self.account.uploads)]
        expect(not any(self._request_id in key for key in keys), f"expected no picture of {self._request_id} in the bucket")
        rows = self.account.rows("SELECT count(*) FROM results WHERE request_id = %s", self._request_id)
        expect(rows == [(0,)], f"expected no row, got {rows}")

    def poison(self, step: Step) -> None:
        with self._fast_retries():
            self.account.client("sqs").send_message(QueueUrl=self.account.queue, MessageBody="not a notice of S3's")
            self._wait_for_dead_letters(1)
        self._fetch_dead_letter(step)

    def redrive(self, step: Step) -> None:
        """The role is locked out, as when a database is being restored; then let in again."""
        picture = tile(5)
        with self._fast_retries():
            with self.account.database() as connection:
                connection.execute("ALTER ROLE shutterless_infer NOLOGIN")
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shutterless_infer'")
            try:
                request_id = self._upload(picture)
                self._wait_for_dead_letters(1)
            finally:
                with self.account.database() as connection:
                    connection.execute("ALTER ROLE shutterless_infer LOGIN")
        status = self.client.record(request_id)["status"]
        expect(status in ("pending", "stalled"), f"expected no outcome before the redrive, got {status}")
        arn = self.account.queue_attributes(self.account.dead_letters)["QueueArn"]
        self.account.client("sqs").start_message_move_task(SourceArn=arn)
        record = self.client.outcome(request_id)
        expect(record["status"] == "done", f"expected done after the redrive, got {record}")
        step.notes.append(f"{status} before, done after")

    def crowd(self, step: Step) -> None:
        dead, [(before,)] = self.account.waiting(self.account.dead_letters), self.account.rows("SELECT count(*) FROM results")
        self._sent_again.clear()
        pictures = [tile(1000 + number) for number in range(CROWD)]
        with ThreadPoolExecutor(AT_ONCE) as senders:
            ids = list(senders.map(self._upload, pictures))
        expect(len(set(ids)) == CROWD, f"expected {CROWD} ids, got {len(set(ids))}")
        deadline, counted = time.monotonic() + CROWD_S, [("", 0)]
        while time.monotonic() < deadline:
            counted = self.account.rows("SELECT status, count(*) FROM results WHERE request_id::text = ANY(%s) GROUP BY status",
                                        ids)
            if counted == [("done", CROWD)]:
                break
            time.sleep(2)
        expect(counted == [("done", CROWD)], f"expected {CROWD} rows done, got {counted}")
        self._wait_until_drained()
        expect(self.account.waiting(self.account.dead_letters) == dead, "expected no new dead letter")
        [(after,)], again = self.account.rows("SELECT count(*) FROM results"), len(self._sent_again)
        expect(0 <= after - before - CROWD <= again,
               f"expected {CROWD} new rows, and at most {again} of uploads whose answer was lost, got {after - before}")
        step.notes.append(f"{CROWD} rows, done, each once; {again} sent again where there was no room")

    def _upload(self, picture: bytes, query: str = "") -> str:
        """POST /upload-image, again where a function has no room. Returns the request's id."""
        deadline = time.monotonic() + ROOM_S
        while (answer := self.client.ask("POST", f"/upload-image{query}", picture, content_type=JPEG)).status in BUSY:
            if time.monotonic() > deadline:
                break
            self._sent_again.append(answer.status)
            time.sleep(1)
        expect(answer.status == 202, f"POST /upload-image: expected 202, got {answer.status} {answer.body[:300]!r}")
        return str(answer.json()["request_id"])

    def _ask_for_form(self, picture: bytes) -> dict[str, Any]:
        asked = json.dumps({"content_type": JPEG, "size_bytes": len(picture)}).encode()
        return dict(self.client.ask("POST", "/uploads", asked, expect=201, content_type="application/json").json())

    def _post(self, sent: dict[str, Any], picture: bytes) -> Answer:
        body, kind = form(sent["fields"], picture)
        expect(urlsplit(sent["url"]).hostname == self.account.place.address, f"expected a form for S3, got {sent['url']}")
        return request("POST", sent["url"], body, {"Content-Type": kind})

    @contextmanager
    def _fast_retries(self) -> Iterator[None]:
        """SQS delivers again after a second instead of six minutes, so that dead letters can be waited for."""
        sqs, queue = self.account.client("sqs"), self.account.queue
        before = self.account.queue_attributes(queue)["VisibilityTimeout"]
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "1"})
        try:
            yield
        finally:
            sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": before})

    def _wait_for_dead_letters(self, count: int) -> None:
        deadline = time.monotonic() + DEAD_S
        while self.account.waiting(self.account.dead_letters) < count:
            if time.monotonic() > deadline:
                waiting = self.account.waiting(self.account.queue)
                raise CheckFailed(f"expected {count} dead letters within {DEAD_S:.0f} s, got "
                                  f"{self.account.waiting(self.account.dead_letters)}, and {waiting} messages in the queue")
            time.sleep(1)

    def _fetch_dead_letter(self, step: Step) -> None:
        """Read it as an operator would, and throw it away."""
        sqs, url = self.account.client("sqs"), self.account.dead_letters
        messages = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], WaitTimeSeconds=2).get("Messages", [])
        expect(len(messages) == 1, f"expected one dead letter, got {len(messages)}")
        step.notes.append(f"delivered {messages[0]['Attributes']['ApproximateReceiveCount']} times")
        sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])

    def _wait_until_drained(self) -> None:
        deadline = time.monotonic() + DEAD_S
        while waiting := self.account.waiting(self.account.queue):
            if time.monotonic() > deadline:
                raise CheckFailed(f"expected an empty queue within {DEAD_S:.0f} s, got {waiting} messages")
            time.sleep(1)


def _in_json(picture: bytes) -> bytes:
    return json.dumps({"image_b64": b64encode(picture).decode()}).encode()


@cache
def _classifier() -> Classifier:
    return Classifier(read_bundle(find_bundle(MODEL, ROOT / "models")))


def _here(picture: bytes) -> Prediction:
    """What the core answers on this machine, without any door."""
    return _classifier().predict(picture).prediction
