import base64
import os
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

import shutterless.results as results_module
from shutterless.errors import BadRequest, BadSettings, Unavailable
from shutterless.results import Arrival, ErrorNote, Outcome, migrate, open_results, parse_time

ROOT = Path(__file__).parents[2]
MODEL = {"name": "eurosat-lite0", "version": "1", "sha256": "ab" * 32}
FOREST = Outcome(predicted_label="Forest", pred_index=1, confidence=0.123456789012345678,
                 top=[{"index": 1, "label": "Forest", "confidence": 0.9}], in_distribution=True, model=MODEL,
                 inference_ms=4.5, latency_ms=20.25, queue_ms=1.5)
RIVER = Outcome(predicted_label="River", pred_index=8, confidence=0.7, latency_ms=30.0)
UNREADABLE = Outcome(error=ErrorNote(title="Not a readable picture", detail="Send a JPEG."))
GAVE_UP = ErrorNote(title="Gave up", detail="Five attempts failed.")
UPLOAD = Arrival(image_name="tile.jpg", object_key="uploads/classify/a.jpg", content_type="image/jpeg",
                 true_label="Forest")


def all_pages(results, **filters):
    records, cursor = [], None
    while True:
        page = results.page(cursor=cursor, **filters)
        records += page.records
        cursor = page.next_cursor
        if cursor is None:
            return records


# --- A picture's life

def test_a_pending_picture_is_recorded_as_it_came(results, clock):
    assert results.add_pending("a", UPLOAD)
    record = results.get("a")
    assert (record.status, record.task, record.image_name, record.true_label) == (
        "pending", "classify", "tile.jpg", "Forest")
    assert (record.object_key, record.object_version, record.content_type) == (
        "uploads/classify/a.jpg", None, "image/jpeg")
    assert record.created_at == clock.time
    assert (record.attempts, record.duplicates, record.finished_at, record.model) == (0, 0, None, None)


def test_a_picture_that_comes_twice_is_recorded_once(results):
    assert results.add_pending("a", UPLOAD)
    assert not results.add_pending("a", Arrival(image_name="other.jpg"))
    assert results.get("a").image_name == "tile.jpg"


def test_an_unknown_request_id_has_no_record(results):
    assert results.get("nobody") is None
    assert results.delete("nobody") is None


def test_an_outcome_is_saved_to_the_last_digit(results, clock):
    results.add_pending("a", UPLOAD)
    clock.forward(2)
    assert results.finish("a", FOREST)
    record = results.get("a")
    for field in fields(Outcome):
        assert getattr(record, field.name) == getattr(FOREST, field.name), field.name
    assert (record.status, record.finished_at) == ("done", clock.time)
    assert record.created_at == clock.time - timedelta(seconds=2)


def test_a_picture_that_is_expected_can_be_claimed_when_it_has_come_and_not_before(results, clock):
    results.add_pending("form", UPLOAD, expected_s=900)
    assert results.claim(5, 60) == []
    assert results.release_claims() == 0  # as a server does that starts
    clock.forward(901)
    assert results.claim(5, 60) == []
    assert results.arrive("form", version="v1", image_name="tile.jpg")
    assert not results.arrive("form", version="v2")  # the first one wins
    claimed = results.claim(5, 60)
    assert [(record.request_id, record.object_version, record.image_name) for record in claimed] == [("form", "v1", "tile.jpg")]
    assert not results.arrive("form")
    results.finish("form", FOREST)
    assert not results.arrive("form")
    assert not results.arrive("nobody")


def test_a_picture_is_late_when_its_time_is_over_and_is_named_once_in_a_while(results, clock):
    results.add_pending("form", UPLOAD, expected_s=900)
    results.add_pending("came", UPLOAD)
    assert results.late(5, 60) == []
    clock.forward(901)
    assert [record.request_id for record in results.late(5, 60)] == ["form"]
    assert results.late(5, 60) == []
    clock.forward(61)
    assert [record.request_id for record in results.late(5, 60)] == ["form"]
    results.defer("form", 10)
    assert results.late(5, 60) == []
    clock.forward(11)
    assert [record.request_id for record in results.late(5, 60)] == ["form"]


def test_a_claim_is_deferred_until_its_pause_is_over(results, clock):
    results.add_pending("a", UPLOAD)
    results.claim(1, 3600)
    results.defer("a", 20)
    clock.forward(19)
    assert results.claim(1, 30) == []
    clock.forward(2)
    assert results.claim(1, 30)[0].attempts == 2
    results.finish("a", FOREST)
    results.defer("a", 0)
    clock.forward(1)
    assert results.claim(1, 30) == []  # what is finished stays so


def test_a_picture_that_is_answered_at_once_is_one_row_with_its_number(results):
    number = results.add_settled("a", UPLOAD, FOREST)
    assert results.get_numbered(number) == results.get("a")
    assert (results.get("a").status, results.get("a").predicted_label) == ("done", "Forest")
    assert results.get_numbered(number + 1) is None


def test_a_picture_that_never_came_is_failed_once_and_only_while_it_is_pending(results):
    results.add_pending("a", UPLOAD, expected_s=0)
    assert results.expire("a", GAVE_UP)
    assert not results.expire("a", UNREADABLE.error)
    assert (results.get("a").status, results.get("a").error) == ("failed", GAVE_UP)
    results.add_pending("b", UPLOAD)
    results.finish("b", FOREST)
    assert not results.expire("b", GAVE_UP)
    assert not results.expire("nobody", GAVE_UP)
    assert results.get("b").predicted_label == "Forest"


def test_only_what_is_still_expected_is_given_up_together(results, clock):
    for request_id in ("late", "later", "came", "deleted"):
        results.add_pending(request_id, UPLOAD, expected_s=0)
    results.add_pending("waits", UPLOAD)
    assert [len(results.expected(most)) for most in (1, 4)] == [1, 4]
    assert sorted(results.expected(100)) == ["came", "deleted", "late", "later"]
    results.arrive("came")
    results.delete("deleted")
    assert results.expire_expected(["late", "later", "came", "deleted", "waits", "nobody"], GAVE_UP) == 2
    assert [results.get(name).status for name in ("late", "later", "came", "waits")] == ["failed", "failed", "pending", "pending"]
    assert (results.get("late").error, results.get("late").finished_at) == (GAVE_UP, clock.time)
    assert results.expire_expected([], GAVE_UP) == 0
    assert results.expected(100) == []


def test_what_was_read_is_recorded_but_a_row_that_was_deleted_is_not_made_again(results):
    read = Arrival(object_key="uploads/classify/a.jpg", object_version="v2", content_type="image/png", true_label="other")
    results.add_pending("a", UPLOAD)
    assert results.finish("a", FOREST, arrival=read, make=False)
    record = results.get("a")
    assert (record.object_version, record.content_type, record.true_label) == ("v2", "image/png", "Forest")
    assert not results.finish("deleted", FOREST, arrival=read, make=False)
    assert not results.stall("deleted", GAVE_UP, arrival=read, make=False)
    assert results.get("deleted") is None


def test_many_are_found_at_once(results):
    for name in "abc":
        results.add_pending(name, UPLOAD)
    assert set(results.get_all(["a", "c", "nobody"])) == {"a", "c"}
    assert results.get_all([]) == {}


def test_duplicates_and_attempts_are_counted_and_change_nothing_else(results):
    results.add_pending("a", UPLOAD)
    results.count_duplicate("a")
    results.count_attempt("a")
    results.count_attempt("a")
    results.count_attempt("nobody")
    record = results.get("a")
    assert (record.status, record.duplicates, record.attempts) == ("pending", 1, 2)


def test_a_picture_that_cannot_be_read_is_recorded_as_failed_with_its_reason(results):
    results.add_pending("a", UPLOAD)
    assert results.finish("a", UNREADABLE)
    record = results.get("a")
    assert (record.status, record.error, record.predicted_label) == ("failed", UNREADABLE.error, None)


@pytest.mark.parametrize(("first", "later"), [(FOREST, UNREADABLE), (UNREADABLE, FOREST), (FOREST, RIVER)])
@pytest.mark.parametrize("arrival", [None, UPLOAD])
def test_a_terminal_state_is_never_overwritten_and_later_attempts_are_counted(results, clock, first, later, arrival):
    results.add_pending("a", UPLOAD)
    assert results.finish("a", first, arrival=arrival)
    before = results.get("a")
    clock.forward(60)
    assert not results.finish("a", later, arrival=arrival)
    assert not results.finish("a", first, arrival=arrival)
    assert not results.stall("a", GAVE_UP, arrival=arrival)
    assert not results.add_pending("a", UPLOAD)
    after = results.get("a")
    assert after.duplicates == 2
    assert after.to_json_dict() == before.to_json_dict()


def test_an_outcome_that_comes_before_the_row_makes_it(results):
    assert results.finish("a", FOREST, arrival=UPLOAD)
    assert not results.add_pending("a", UPLOAD)
    record = results.get("a")
    assert (record.status, record.predicted_label, record.image_name) == ("done", "Forest", "tile.jpg")


def test_the_version_that_was_read_is_recorded_and_the_rest_of_the_arrival_stays(results, clock):
    results.add_pending("a", UPLOAD)
    clock.forward(5)
    read = Arrival(image_name="ignored", object_key="uploads/classify/a.jpg", object_version="v1")
    assert results.finish("a", FOREST, arrival=read)
    record = results.get("a")
    assert (record.object_version, record.content_type) == ("v1", "image/jpeg")
    assert (record.image_name, record.true_label) == ("tile.jpg", "Forest")
    assert record.created_at == clock.time - timedelta(seconds=5)


def test_an_outcome_does_not_bring_a_deleted_row_back(results):
    results.add_pending("a", UPLOAD)
    assert results.delete("a").object_key == UPLOAD.object_key
    assert not results.finish("a", FOREST)
    assert results.get("a") is None


def test_a_stalled_picture_can_still_be_finished(results):
    results.add_pending("a", UPLOAD)
    assert results.stall("a", GAVE_UP)
    assert not results.stall("a", GAVE_UP)
    assert (results.get("a").status, results.get("a").error) == ("stalled", GAVE_UP)
    assert results.finish("a", FOREST)
    assert (results.get("a").status, results.get("a").error) == ("done", None)


def test_a_stalled_picture_is_revived_once_with_all_its_attempts_and_nothing_else_is(results):
    for request_id in ("a", "b"):
        results.add_pending(request_id, UPLOAD)
    results.claim(1, 60)
    results.stall("a", GAVE_UP)
    assert [results.revive(request_id) for request_id in ("a", "a", "b", "none")] == [True, False, False, False]
    assert (results.get("a").status, results.get("a").error, results.get("a").attempts) == ("pending", None, 0)
    assert [record.request_id for record in results.claim(9, 60)] == ["a", "b"]
    results.finish("a", FOREST)
    assert not results.revive("a")


def test_what_is_pending_is_counted_up_to_a_bound(results):
    for number in range(4):
        results.add_pending(f"r{number}", UPLOAD, expected_s=60 if number % 2 else None)
    results.finish("r0", FOREST)
    assert [results.count_pending(most) for most in (1, 3, 100)] == [1, 3, 3]


def test_a_dead_letter_without_a_row_gets_one(results):
    assert results.stall("a", GAVE_UP, arrival=UPLOAD)
    assert results.get("a").status == "stalled"


def test_text_from_outside_never_breaks_a_query(results):
    nasty = "a\0b \ud800 'x'; DROP TABLE results; -- \N{SNOWMAN}"
    assert results.get(nasty) is None
    assert results.page(label=nasty).records == []
    assert results.add_pending("a", Arrival(image_name=nasty))
    assert results.get("a").image_name == "a\ufffdb ? 'x'; DROP TABLE results; -- \N{SNOWMAN}"


# --- The record that clients see

def test_the_record_has_exactly_the_fields_of_the_contract(results):
    results.finish("a", FOREST, arrival=UPLOAD)
    shown = results.get("a").to_json_dict()
    assert list(shown) == ["id", "request_id", "task", "status", "image_name", "predicted_label", "confidence", "top",
                           "caption", "in_distribution", "true_label", "model", "inference_ms", "latency_ms",
                           "queue_ms", "created_at", "finished_at", "error"]
    assert shown["created_at"] == shown["finished_at"] == "2026-03-01T12:00:00.123Z"
    assert shown["model"] == MODEL


def test_times_of_any_zone_come_back_as_the_same_moment_in_utc(results):
    moment = datetime(2026, 3, 29, 2, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=-7)))
    results.add_pending("a", Arrival(created_at=moment))
    assert results.get("a").created_at == moment
    assert results.get("a").created_at.tzinfo == UTC


# --- Claims

def test_claims_go_oldest_first_and_count_attempts(results):
    for name in "abcde":
        results.add_pending(name, UPLOAD)
    results.finish("a", FOREST)
    results.stall("b", GAVE_UP)
    assert [record.request_id for record in results.claim(2, 30)] == ["c", "d"]
    claimed = results.claim(2, 30)
    assert [(record.request_id, record.attempts) for record in claimed] == [("e", 1)]
    assert results.claim(2, 30) == []


def test_a_claim_whose_lease_is_over_can_be_taken_again(results, clock):
    results.add_pending("a", UPLOAD)
    assert results.claim(1, 30)[0].claimed_until == clock.time + timedelta(seconds=30)
    clock.forward(29)
    assert results.claim(1, 30) == []
    clock.forward(2)
    assert results.claim(1, 30)[0].attempts == 2


def test_released_claims_need_not_be_waited_for(results):
    for name in "abc":
        results.add_pending(name, UPLOAD)
    results.claim(2, 3600)
    assert results.release_claims() == 2
    assert len(results.claim(9, 30)) == 3
    results.finish("a", FOREST)
    assert results.get("a").claimed_until is None


def test_two_claimers_never_share_a_picture(results):
    names = {f"p{i}" for i in range(60)}
    for name in names:
        results.add_pending(name, UPLOAD)

    def work(_):
        mine = []
        while batch := results.claim(3, 600):
            assert len(batch) <= 3
            mine += [record.request_id for record in batch]
        return mine

    with ThreadPoolExecutor(6) as pool:
        claimed = [name for mine in pool.map(work, range(6)) for name in mine]
    assert len(claimed) == 60
    assert set(claimed) == names


# --- Many at once

@pytest.mark.parametrize("row_first", [True, False])
def test_of_many_threads_that_finish_one_picture_exactly_one_wins(results, row_first):
    if row_first:
        results.add_pending("a", UPLOAD)
    start = threading.Barrier(12)

    def finish(i):
        start.wait()
        return results.finish("a", Outcome(predicted_label=f"label {i}"), arrival=UPLOAD)

    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(finish, range(12)))
    assert won.count(True) == 1
    record = results.get("a")
    assert (record.predicted_label, record.duplicates) == (f"label {won.index(True)}", 11)


def test_upload_and_outcome_that_race_make_one_finished_row(results):
    def both(i):
        with ThreadPoolExecutor(2) as pool:
            pending = pool.submit(results.add_pending, f"p{i}", UPLOAD)
            finished = pool.submit(results.finish, f"p{i}", FOREST, arrival=UPLOAD)
            return pending.result(), finished.result()

    assert all(finished for _, finished in map(both, range(20)))
    assert {record.status for record in results.page(limit=100).records} == {"done"}
    assert results.stats()["total_predictions"] == 20


def test_a_walk_through_the_pages_meets_each_old_row_once_while_rows_arrive(results):
    old = [f"old {i}" for i in range(40)]
    for name in old:
        results.add_pending(name, UPLOAD)
    stop = threading.Event()

    def keep_adding():
        i = 0
        while not stop.is_set():
            results.add_pending(f"new {i}", UPLOAD)
            i += 1

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(keep_adding)
        try:
            walked = [record.request_id for record in all_pages(results, limit=3)]
        finally:
            stop.set()
        adding.result()
    assert [name for name in walked if name.startswith("old")] == old[::-1]
    assert len(set(walked)) == len(walked)


# --- Pages

def test_pages_are_newest_first_and_the_last_has_no_cursor(results):
    for i in range(5):
        results.add_pending(f"p{i}", UPLOAD)
    first = results.page(limit=2)
    assert [record.request_id for record in first.records] == ["p4", "p3"]
    second = results.page(limit=2, cursor=first.next_cursor)
    assert [record.request_id for record in second.records] == ["p2", "p1"]
    third = results.page(limit=2, cursor=second.next_cursor)
    assert ([record.request_id for record in third.records], third.next_cursor) == (["p0"], None)
    assert results.page(limit=5).next_cursor is None


def test_pages_can_be_of_a_label_a_status_and_a_span_of_time(results, clock):
    for i in range(6):
        results.finish(f"p{i}", [FOREST, RIVER, UNREADABLE][i % 3], arrival=UPLOAD)
        clock.forward(60)
    start = clock.time - timedelta(minutes=6)

    def names(**filters):
        return [record.request_id for record in all_pages(results, limit=1, **filters)]

    assert names(label="Forest") == ["p3", "p0"]
    assert names(status="failed") == ["p5", "p2"]
    assert names(label="River", status="done") == ["p4", "p1"]
    assert names(from_=start + timedelta(minutes=2), to=start + timedelta(minutes=4)) == ["p3", "p2"]
    assert names(label="River", from_=start + timedelta(minutes=2)) == ["p4"]
    assert names(label="Lake") == []


def cursor(digits):
    return base64.urlsafe_b64encode(b"before " + digits).decode()


@pytest.mark.parametrize(("name", "wrong"), [
    ("limit", 0), ("limit", 101), ("status", "finished"), ("cursor", ""), ("cursor", "garbage"), ("cursor", "é"),
    ("cursor", "YmVmb3JlIC0x"), ("cursor", "YmVmb3JlIDk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5"), ("cursor", "a\0"),
    ("cursor", "9" * 100_000), ("cursor", cursor(b"0" * 5_000)), ("cursor", cursor(b"0" * 19 + b"9" * 30)),
    ("from_", datetime(2026, 1, 1))])
def test_a_page_that_cannot_be_is_refused_by_name(results, name, wrong):
    with pytest.raises(BadRequest, match=name.rstrip("_")) as caught:
        results.page(**{name: wrong})
    assert len(str(caught.value)) < 300


def test_times_are_read_as_iso_8601():
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert parse_time("2026-01-31T12:00:00Z", "from") == noon
    assert parse_time("2026-01-31T13:00:00+01:00", "from") == noon
    assert parse_time("2026-01-31t12:00:00.0z", "from") == noon, "RFC 3339 lets T and Z be small"
    assert parse_time("2026-01-31T12:00", "from") == noon
    assert parse_time("2026-01-31", "from") == noon - timedelta(hours=12)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_cannot_be_is_refused_by_name(text):
    with pytest.raises(BadRequest, match="from: expected a time"):
        parse_time(text, "from")


# --- Statistics

def test_statistics_of_nothing_are_zeros(results):
    assert results.stats() == {
        "total_predictions": 0, "label_distribution": [],
        "by_status": {"pending": 0, "done": 0, "failed": 0, "stalled": 0},
        "latency": [], "accuracy": {"n": 0, "correct": 0, "accuracy": None}, "confusion": []}


def test_statistics_count_labels_states_and_right_answers(results):
    truths = {"p0": "Forest", "p1": "River", "p2": None, "p3": "Forest"}
    for name, truth in truths.items():
        results.finish(name, FOREST, arrival=Arrival(true_label=truth))
    results.finish("p4", RIVER, arrival=Arrival(true_label="River"))
    results.finish("p5", UNREADABLE, arrival=Arrival(true_label="River"))
    results.add_pending("p6", Arrival(true_label="River"))
    stats = results.stats()
    assert stats["total_predictions"] == 5
    assert stats["label_distribution"] == [{"label": "Forest", "count": 4}, {"label": "River", "count": 1}]
    assert stats["by_status"] == {"pending": 1, "done": 5, "failed": 1, "stalled": 0}
    assert stats["accuracy"] == {"n": 4, "correct": 3, "accuracy": 0.75}


def test_latency_percentiles_are_nearest_ranks_per_bucket_of_the_last_sixty(results, clock):
    latencies_ms = {0: range(1, 101), 1: [7], 70: [1000, 10, 20]}  # minutes ago -> measured
    for minutes, values in latencies_ms.items():
        for i, value in enumerate(values):
            created_at = clock.time - timedelta(minutes=minutes)
            results.finish(f"{minutes}-{i}", Outcome(latency_ms=value), arrival=Arrival(created_at=created_at))
    results.finish("unmeasured", Outcome(predicted_label="x"), arrival=UPLOAD)
    now = {"start": "2026-03-01T12:00:00.000Z", "count": 100, "p50_ms": 50, "p95_ms": 95, "p99_ms": 99}
    before = {"start": "2026-03-01T11:59:00.000Z", "count": 1, "p50_ms": 7, "p95_ms": 7, "p99_ms": 7}
    assert results.stats(bucket_s=60)["latency"] == [before, now]
    hourly = results.stats(bucket_s=3600)["latency"]
    assert [(bucket["start"][11:13], bucket["count"]) for bucket in hourly] == [("10", 3), ("11", 1), ("12", 100)]
    assert (hourly[0]["p50_ms"], hourly[0]["p99_ms"]) == (20, 1000)


@pytest.mark.parametrize("bucket_s", [0, -1, 40 * 86_400])
def test_a_bucket_that_cannot_be_is_refused(results, bucket_s):
    with pytest.raises(BadRequest, match="bucket"):
        results.stats(bucket_s=bucket_s)


# --- When the database does not play along

@pytest.mark.parametrize("url", ["mysql://db/x", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_an_address_of_another_kind_is_refused_without_showing_it(url):
    with pytest.raises(BadSettings, match="DATABASE_URL: expected sqlite:///FILE"):
        open_results(url)


def test_a_database_that_another_writer_locks_for_too_long_is_unavailable(tmp_path, monkeypatch):
    import sqlite3
    url = f"sqlite:///{tmp_path}/test.db"
    migrate(url)
    monkeypatch.setattr(results_module, "_BUSY_S", 0.05)
    results = open_results(url)
    other = sqlite3.connect(tmp_path / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        results.add_pending("a", UPLOAD)
    assert results.get("a") is None  # readers do not wait
    other.execute("ROLLBACK")
    assert results.add_pending("a", UPLOAD)
    other.close()
    results.close()


@pytest.mark.needs("postgres")
def test_a_server_that_is_not_there_is_unavailable():
    for attempt in (migrate, lambda url: open_results(url).ping()):
        with pytest.raises(Unavailable) as caught:
            attempt("postgresql://me:hunter2@127.0.0.1:9/x")
        assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(Unavailable):
        open_results(f"sqlite:///{tmp_path}/file/test.db")


@pytest.mark.needs("postgres")
def test_a_connection_that_the_server_dropped_is_replaced(new_postgres_database):
    import psycopg
    url = new_postgres_database()
    migrate(url)
    results = open_results(url)
    results.add_pending("a", UPLOAD)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                      "WHERE datname = current_database() AND pid <> pg_backend_pid()")
    assert results.get("a").status == "pending"
    results.close()


def test_a_missing_schema_is_not_called_a_passing_fault(database_url):
    results = open_results(database_url)
    with pytest.raises(sa.exc.DBAPIError):
        results.ping()
    results.close()


def test_an_error_for_the_log_holds_nothing_that_a_client_sent(database_url):
    results = open_results(database_url)
    with pytest.raises(sa.exc.DBAPIError) as error:
        results.add_pending("a", UPLOAD)
    assert "INSERT" in str(error.value)
    assert "tile.jpg" not in str(error.value)
    results.close()


def test_a_killed_process_loses_nothing_that_it_had_answered(tmp_path):
    url = f"sqlite:///{tmp_path}/test.db"
    migrate(url)
    code = ("import itertools, sys; from shutterless.results import *; results = open_results(sys.argv[1])\n"
            "for i in itertools.count():\n"
            "    results.add_pending(f'p{i}', Arrival()); results.claim(1, 3600)\n"
            "    i % 2 and results.finish(f'p{i}', Outcome(predicted_label='Forest')); print(i, flush=True)")
    worker = subprocess.Popen([sys.executable, "-c", code, url], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    answered: queue.Queue[int] = queue.Queue()
    reader = threading.Thread(target=lambda: [answered.put(int(line)) for line in worker.stdout])
    reader.start()
    while answered.get(timeout=60) < 25:
        pass
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    reader.join()
    worker.stdout.close()
    last = max([25, *answered.queue])
    results = open_results(url)
    statuses = [results.get(f"p{i}").status for i in range(last + 1)]
    assert statuses == ["done" if i % 2 else "pending" for i in range(last + 1)]
    assert results.release_claims() >= last // 2
    results.close()


def test_sqlite_writes_through_to_the_disk_before_it_answers(tmp_path):
    engine = results_module._engine(f"sqlite:///{tmp_path}/test.db")
    with engine.connect() as connection:
        pragmas = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                   for name in ("journal_mode", "synchronous", "foreign_keys")}
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_importing_results_loads_no_driver_and_no_alembic():
    code = "import sys, shutterless.results; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"alembic", "psycopg", "boto3", "numpy", "sqlalchemy.orm"} & set(loaded.split())


# --- What waits

def test_the_backlog_is_what_has_come_and_has_no_outcome(results, clock):
    assert (results.backlog().pending, results.backlog().stalled, results.backlog().oldest_at) == (0, 0, None)
    came_at = clock.time
    for request_id in ("first", "second", "done", "stuck"):
        results.add_pending(request_id, UPLOAD)
    results.add_pending("expected", UPLOAD, expected_s=900)
    results.finish("done", FOREST)
    results.stall("stuck", GAVE_UP)
    assert [record.request_id for record in results.claim(1, lease_s=30)] == ["first"]
    backlog = results.backlog()
    assert (backlog.pending, backlog.stalled, backlog.oldest_at) == (2, 1, came_at)
