import struct
import threading
import uuid
import zlib

import psycopg
import pytest

from lambdas.infer import Classification, Container, infer
from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier
from shutterless.errors import BadRequest, Unavailable
from shutterless.results import Arrival
from shutterless.settings import Settings
from shutterless.uploads import request_id_of
from tests.lambdas.driver import s3_event, s3_record, sqs_event
from tests.lambdas.driver import test_event as configured

pytestmark = pytest.mark.needs("postgres")


class Context:
    """Lambda's, with a minute left, or as little as a test says."""

    def __init__(self, *left_ms: int) -> None:
        self.left_ms = list(left_ms)

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms.pop(0) if self.left_ms else 60_000


@pytest.fixture
def put(container, bucket):
    """`put(jpeg("red"), key=...)`: an upload as the door leaves it, row and object; returns its notification's record."""
    def put(picture: bytes, key: str | None = None, *, row: bool = True, **arrival) -> dict:
        request_id = str(uuid.uuid4())
        key = key or f"uploads/classify/{request_id}.jpg"
        if row:
            container.storage.results.add_pending(request_id, Arrival(object_key=key, **arrival))
        version = container.storage.objects.put(key, picture, "image/jpeg")
        return s3_record(bucket, key, version)
    return put


@pytest.fixture
def run(container):
    """`run(record, ...)`: each in its own message; returns the ids of those that failed."""
    def run(*records, receives: int = 1, context=None, container=container) -> list[str]:
        reply = infer(sqs_event(*(s3_event(record) for record in records), receives=receives), context or Context(), container)
        assert list(reply) == ["batchItemFailures"]
        return [failure["itemIdentifier"] for failure in reply["batchItemFailures"]]
    return run


@pytest.fixture
def record_of(container):
    def record_of(record: dict):
        from urllib.parse import unquote_plus

        stored = record["s3"]["object"]
        request_id, _ = request_id_of(record["s3"]["bucket"]["name"], unquote_plus(stored["key"]), stored.get("versionId"))
        return container.storage.results.get(request_id)
    return record_of


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in 200 bytes."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""))


# --- Pictures

def test_every_picture_of_a_batch_gets_its_row_and_its_own_answer(run, put, jpeg, record_of, models_dir):
    colours = ["red", "green", "blue"] * 7
    records = [put(jpeg(colour), true_label="x") for colour in colours]
    assert run(*records) == []
    direct = Classifier(read_bundle(models_dir / "colours" / "1"))
    for colour, record in zip(colours, records, strict=True):
        saved, answer = record_of(record), direct.predict(jpeg(colour))
        assert (saved.status, saved.predicted_label, saved.true_label) == ("done", answer.prediction.label, "x")
        assert saved.confidence == pytest.approx(answer.prediction.confidence, abs=1e-6)
        assert [entry["index"] for entry in saved.top] == [index for index, _, _ in answer.prediction.top]
        assert saved.model == answer.model
        assert saved.object_version == record["s3"]["object"]["versionId"]
        assert saved.content_type == "image/jpeg"
        assert saved.latency_ms >= saved.queue_ms >= 0


def test_the_model_that_ships_gives_together_what_it_gives_alone(container, settings_of, run, put, draw, encode, record_of):
    shipped = Settings()
    container = Container(settings_of("infer", model=shipped.model, models_dir=shipped.models_dir), container.storage)
    pictures = [encode(draw((64, 64), seed), "JPEG") for seed in range(8)]
    records = [put(picture) for picture in pictures]
    assert run(*records, container=container) == []
    classifier = container.classification().shelf.default
    for record, picture in zip(records, pictures, strict=True):
        prediction = classifier.predict(picture).prediction
        assert record_of(record).predicted_label == prediction.label
        assert record_of(record).confidence == pytest.approx(prediction.confidence, abs=1e-5)


def test_all_records_of_all_messages_are_read(container, put, jpeg, record_of):
    records = [put(jpeg("green")) for _ in range(5)]
    event = sqs_event(s3_event(*records[:2]), s3_event(*records[2:4]), s3_event(records[4]))
    assert infer(event, Context(), container) == {"batchItemFailures": []}
    assert [record_of(record).predicted_label for record in records] == ["green"] * 5


@pytest.mark.parametrize("key", ["uploads/classify/my summer+photo.jpg", "uploads/classify/Ünïcödé/日本 🛰.png",
                                 "uploads/classify/100%25 a&b=c.jpg", "elsewhere.jpg"])
def test_an_object_that_others_put_is_answered_under_an_id_of_its_own(run, put, jpeg, record_of, key):
    first, second = put(jpeg("red"), key, row=False), put(jpeg("blue"), key, row=False)
    assert run(first, second) == []
    assert [record_of(one).predicted_label for one in (first, second)] == ["red", "blue"]
    assert record_of(first).request_id != record_of(second).request_id
    assert record_of(first).image_name == key.rpartition("/")[2]


@pytest.mark.parametrize("told", ["1970-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z", "soon", None, 3])
def test_a_time_that_cannot_be_is_not_believed(run, put, jpeg, record_of, told):
    record = put(jpeg(), "uploads/classify/old.jpg", row=False)
    record["eventTime"] = told
    assert run(record) == []
    assert 0 <= record_of(record).latency_ms < 3_600_000


def test_a_bomb_spoils_only_itself(run, put, jpeg, record_of):
    records = [put(jpeg("red")), put(bomb()), put(jpeg("blue")), put(b"<html>not a picture"), put(b""), put(jpeg()[:200])]
    assert run(*records) == []
    saved = [record_of(record) for record in records]
    assert [one.status for one in saved] == ["done", "failed", "done", "failed", "failed", "failed"]
    assert saved[1].error["title"] == "Picture too large"
    assert all(one.error["detail"] for one in saved if one.status == "failed")


def test_a_picture_with_too_many_bytes_is_failed_and_not_read(container, settings_of, put, run, record_of, jpeg, s3):
    container = Container(settings_of("infer", max_bytes=1000), container.storage)
    large, small = put(jpeg(size=(400, 400)), None), put(jpeg(size=(4, 4)))
    assert run(large, small, container=container) == []
    assert record_of(large).error["title"] == "Picture too large"
    assert record_of(small).status == "done"


def test_a_lying_content_type_is_put_right(run, put, encode, draw, record_of):
    record = put(encode(draw(), "PNG"), content_type="image/jpeg")
    assert run(record) == []
    assert record_of(record).content_type == "image/png"


def test_a_model_that_was_asked_for_and_does_not_answer_here_is_a_failure_that_says_so(run, put, jpeg, record_of):
    ours, other = put(jpeg(), asked_model="colours/1"), put(jpeg(), asked_model="other")
    assert run(ours, other) == []
    assert record_of(ours).status == "done"
    assert "'other'" in record_of(other).error["detail"]


def test_models_can_be_mixed_in_a_batch(container, settings_of, run, put, jpeg, record_of, make_bundle, tmp_path):
    make_bundle(tmp_path)
    make_bundle(tmp_path, name="tints", labels=["rouge", "vert", "bleu"], side=16)
    container = Container(settings_of("infer", models_dir=tmp_path), container.storage)
    records = [put(jpeg("blue"), asked_model=model) for model in (None, "tints/1", "colours/1", "tints")]
    assert run(*records, container=container) == []
    assert [record_of(record).predicted_label for record in records] == ["blue", "bleu", "blue", "bleu"]


# --- Messages that are none

def test_the_test_event_removals_and_folders_are_acknowledged(run, container, bucket):
    removed = s3_record(bucket, "uploads/classify/gone.jpg", name="ObjectRemoved:DeleteMarkerCreated")
    folder = s3_record(bucket, "uploads/classify/")
    event = sqs_event(configured(bucket), s3_event(removed), s3_event(folder), s3_event())
    assert infer(event, Context(), container) == {"batchItemFailures": []}


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"text"', "{}", '{"Records": 3}', '{"Records": [null]}',
                                  '{"Records": [{"eventSource": "aws:ses"}]}',
                                  '{"Records": [{"eventName": "ObjectCreated:Put"}]}',
                                  '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": '
                                  '{"key": "%ff"}}}]}', "[" * 100_000])
def test_a_malformed_message_goes_to_the_dead_letters_and_holds_nobody_up(container, put, jpeg, record_of, body, lines):
    good = put(jpeg())
    reply = infer(sqs_event(body, s3_event(good)), Context(), container)
    assert reply == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert record_of(good).status == "done"
    logged = lines()
    assert logged[-1]["Malformed"] == 1
    assert any(line.get("message_id") == "m0" for line in logged)


@pytest.mark.parametrize(("where", "name", "value"), [
    ("bucket", "name", "\ud800"), ("bucket", "name", ""), ("bucket", "name", 3), ("object", "key", "\ud800"),
    ("object", "key", ""), ("object", "versionId", "\ud800"), ("object", "versionId", 3), ("object", "versionId", ["a"])])
def test_a_name_that_s3_cannot_have_given_holds_nobody_up(container, put, jpeg, record_of, bucket, where, name, value):
    good, strange = put(jpeg()), s3_record(bucket, "uploads/classify/a.jpg", "v1")
    strange["s3"][where][name] = value
    reply = infer(sqs_event(s3_event(strange), s3_event(good)), Context(), container)
    assert reply == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert record_of(good).status == "done"


@pytest.mark.parametrize("moment", [None, 3, "yesterday", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_cannot_be_is_now(run, put, jpeg, record_of, moment):
    record = put(jpeg(), "uploads/classify/holiday.jpg", row=False) | {"eventTime": moment}
    assert run(record) == []
    assert record_of(record).created_at.year > 2000


def test_what_can_be_read_of_a_half_broken_message_is_answered(container, put, jpeg, record_of):
    good = put(jpeg())
    assert infer(sqs_event(s3_event({"eventName": 3}, good)), Context(), container)["batchItemFailures"]
    assert record_of(good).status == "done"


def test_s3_may_deliver_without_a_queue(container, put, jpeg, record_of, s3):
    record = put(jpeg("blue"))
    assert infer(s3_event(record), Context(), container) == {"batchItemFailures": []}
    assert record_of(record).predicted_label == "blue"
    unlucky = put(jpeg())
    s3.faults += ["503"] * 10
    with pytest.raises(Unavailable):
        infer(s3_event(unlucky), Context(), container)


@pytest.mark.parametrize("event", [None, [], "text", {}, {"Records": [{"eventSource": "aws:sqs"}]}, {"httpMethod": "GET"}])
def test_an_event_of_another_kind_is_refused(container, event):
    with pytest.raises(BadRequest):
        infer(event, Context(), container)


# --- Twice, out of order, half-way

def test_the_same_message_twice_is_one_row_and_counted(run, put, jpeg, record_of):
    record = put(jpeg())
    assert run(record, record) == []
    assert run(record) == []
    assert (record_of(record).status, record_of(record).duplicates) == ("done", 1)


def test_a_failure_stays_when_the_message_comes_again(run, put, record_of):
    record = put(b"no picture")
    assert run(record) == run(record) == []
    assert (record_of(record).status, record_of(record).duplicates) == ("failed", 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_a_form_that_was_used_twice_the_first_version_wins_in_any_order(container, run, bucket, jpeg, record_of, order, post):
    request_id = str(uuid.uuid4())
    key = f"uploads/classify/{request_id}.jpg"
    container.storage.results.add_pending(request_id, Arrival(object_key=key))
    pictures = [jpeg("red"), jpeg("blue") + b"\0" * (len(jpeg("red")) - len(jpeg("blue")))]
    form = container.storage.objects.form(key, "image/jpeg", len(pictures[0]), 60)
    records = [s3_record(bucket, key, post(form, picture), "ObjectCreated:Post") for picture in pictures]
    for turn in order:
        assert run(records[turn]) == []
    assert (record_of(records[0]).predicted_label, record_of(records[0]).duplicates) == ("red", 1)
    assert record_of(records[0]).object_version == records[0]["s3"]["object"]["versionId"]


def test_two_containers_at_once_make_one_row(put, jpeg, record_of, settings_of, open_storage):
    records = [put(jpeg()) for _ in range(6)]
    settings = settings_of("infer")
    containers = [Container(settings, open_storage(settings)) for _ in range(3)]
    event = sqs_event(*(s3_event(record) for record in records))
    threads = [threading.Thread(target=infer, args=(event, Context(), container)) for container in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(record_of(record).status, record_of(record).duplicates) for record in records] == [("done", 2)] * 6


def test_a_picture_that_is_gone_is_failed(container, run, put, jpeg, record_of, bucket):
    deleted = put(jpeg())
    key = deleted["s3"]["object"]["key"]
    container.storage.objects._s3.delete_object(Bucket=bucket, Key=key, VersionId=deleted["s3"]["object"]["versionId"])
    never = s3_record(bucket, f"uploads/classify/{uuid.uuid4()}.jpg", "AQAB")
    assert run(deleted, never) == []
    assert [record_of(record).status for record in (deleted, never)] == ["failed", "failed"]
    assert record_of(deleted).error["title"] == "Not found"


def test_a_result_that_was_deleted_while_its_picture_waited_is_not_made_again(container, run, put, jpeg, record_of,
                                                                              migrated_database):
    from shutterless.records import forget
    from shutterless.results import open_results

    record = put(jpeg())
    owner = open_results(migrated_database)
    forget(owner, container.storage.objects, record_of(record).request_id)
    owner.close()
    assert run(record) == []
    assert run(record, receives=5) == []
    assert record_of(record) is None


def test_a_result_that_is_deleted_while_its_picture_is_classified_is_not_made_again(run, put, jpeg, record_of, monkeypatch,
                                                                                    migrated_database):
    record, answer = put(jpeg()), Classification.answer
    request_id = record_of(record).request_id

    def answer_late(self, pictures, works):
        with psycopg.connect(migrated_database, autocommit=True) as connection:
            connection.execute("DELETE FROM results WHERE request_id = %s", [request_id])
        return answer(self, pictures, works)

    monkeypatch.setattr(Classification, "answer", answer_late)
    assert run(record) == []
    assert record_of(record) is None


@pytest.mark.parametrize("fault", ["503", "403"])
def test_a_result_that_was_deleted_does_not_come_back_though_s3_fails_at_the_last_delivery(container, run, put, jpeg, record_of,
                                                                                           migrated_database, s3, fault):
    from shutterless.records import forget
    from shutterless.results import open_results

    record = put(jpeg())
    owner = open_results(migrated_database)
    forget(owner, container.storage.objects, record_of(record).request_id)
    owner.close()
    s3.faults += [fault] * 2
    assert run(record, receives=5) == ["m0"]
    assert record_of(record) is None
    s3.faults.clear()
    assert run(record) == []
    assert record_of(record) is None


def test_what_others_put_is_stalled_as_well_when_it_is_given_up(run, put, jpeg, record_of, s3):
    record = put(jpeg(), "uploads/classify/holiday.jpg", row=False)
    s3.faults += ["503"] * 2
    assert run(record, receives=5) == ["m0"]
    assert record_of(record).status == "stalled"
    assert run(record, receives=1) == []
    assert record_of(record).status == "done"


# --- Faults that are nobody's picture's

@pytest.mark.parametrize("fault", ["503", "cut", "403"])
def test_a_fault_of_s3_brings_the_message_back_and_is_never_a_failed_picture(run, put, jpeg, record_of, s3, fault):
    record = put(jpeg())
    s3.faults += [fault] * 4
    assert run(record) == ["m0"]
    assert record_of(record).status == "pending"
    s3.faults.clear()
    assert run(record, receives=2) == []
    assert record_of(record).status == "done"


def test_slow_answers_of_s3_are_waited_for(run, put, jpeg, record_of, s3):
    record = put(jpeg())
    s3.faults += ["slow"]
    assert run(record) == []
    assert record_of(record).status == "done"


def test_after_the_last_delivery_it_is_stalled_and_a_redrive_moves_it_on(run, put, jpeg, record_of, s3):
    record = put(jpeg())
    s3.faults += ["503"] * 8
    assert run(record, receives=4) == ["m0"]
    assert record_of(record).status == "pending"
    assert run(record, receives=5) == ["m0"]
    assert record_of(record).status == "stalled"
    s3.faults.clear()
    assert run(record, receives=6) == []
    assert (record_of(record).status, record_of(record).error) == ("done", None)


def test_a_broken_model_is_no_picture_s_fault(container, settings_of, run, put, jpeg, record_of, make_bundle, tmp_path, lines):
    make_bundle(tmp_path, name="broken", model=b"no graph")
    broken = Container(settings_of("infer", model="broken", models_dir=tmp_path), container.storage)
    record = put(jpeg())
    assert run(record, container=broken) == ["m0"]
    assert record_of(record).status == "pending"
    assert "Export" in next(line["error"] for line in lines() if line.get("level") == "ERROR")
    assert run(record, receives=5, container=broken) == ["m0"]
    assert record_of(record).status == "stalled"


def test_what_there_is_no_time_for_goes_back_untouched(run, put, jpeg, record_of):
    records = [put(jpeg()) for _ in range(20)]
    failed = run(*records, context=Context(40_000, 40_000, 9_000))
    assert failed == [f"m{n}" for n in range(8, 20)]
    assert [record_of(record).status for record in records] == ["done"] * 8 + ["pending"] * 12


def test_what_comes_to_a_model_that_took_nearly_all_the_time_to_open_goes_back_untouched(container, run, put, jpeg, record_of,
                                                                                         monkeypatch):
    record, context, classification = put(jpeg()), Context(), container.classification

    def open_slowly() -> Classification:
        context.left_ms = [2_000] * 9
        return classification()

    monkeypatch.setattr(container, "classification", open_slowly)
    assert run(record, context=context) == ["m0"]
    assert record_of(record).status == "pending"


def test_a_picture_that_no_answer_can_be_found_for_stops_no_other(run, put, jpeg, record_of, monkeypatch, lines):
    """Whatever the model raises of it; alone in its group or beside seven others."""
    classify = Classifier.classify

    def refuse_blue(self, pixels):
        if (pixels[:, 0, 0, 2] > 200).any():
            raise RuntimeError("non-zero status code returned while running Conv node")
        return classify(self, pixels)

    monkeypatch.setattr(Classifier, "classify", refuse_blue)
    records = [put(jpeg(colour)) for colour in ["blue"] + ["red"] * 9]
    assert run(*records) == [f"m{n}" for n in range(8)]
    assert run(*records[:8], receives=2) == ["m0"]
    assert [record_of(record).status for record in records] == ["pending"] + ["done"] * 9
    assert any("Conv node" in line.get("trace", "") for line in lines())


def test_pictures_of_a_batch_go_through_the_network_together(run, put, jpeg, monkeypatch):
    classify, runs = Classifier.classify, []
    monkeypatch.setattr(Classifier, "classify", lambda self, pixels: runs.append(len(pixels)) or classify(self, pixels))
    assert run(*(put(jpeg()) for _ in range(10))) == []
    assert runs[-2:] == [8, 2]


def test_a_picture_that_ends_the_process_each_time_is_tried_last(run, put, jpeg, record_of, monkeypatch):
    """It dies in the middle of its work, as when memory ends; the others of its batch are settled before."""
    poison, *others = records = [put(jpeg("blue")), put(jpeg("red")), put(jpeg("green"))]
    answer = Classification.answer

    def die(self, pictures, works):
        if len(pictures) > 1 or pictures[0][1][0, 0, 2] > 200:
            raise SystemExit
        return answer(self, pictures, works)

    monkeypatch.setattr(Classification, "answer", die)
    for receives in range(1, 4):
        with pytest.raises(SystemExit):
            run(*records, receives=receives)
    assert [record_of(record).status for record in others] == ["done", "done"]
    with pytest.raises(SystemExit):
        run(poison, receives=5)
    assert record_of(poison).status == "stalled"


# --- What is logged

def test_each_picture_and_each_batch_has_a_line_that_cloudwatch_counts(run, put, jpeg, lines):
    run(put(jpeg("red")), put(b"none"))
    failed, done, batch = [line for line in lines() if "_aws" in line]
    assert (done["Label"], failed["Reason"]) == ("red", "Not a readable picture")
    assert (batch["Messages"], batch["Done"], batch["Failed"]) == (2, 1, 1)
