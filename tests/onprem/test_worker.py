import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from onprem.storage import Storage
from onprem.worker import MAX_ATTEMPTS, Worker
from shutterless.errors import Unavailable
from shutterless.pictures import Limits
from shutterless.settings import Settings
from shutterless.shelf import Shelf
from shutterless.uploads import NEVER_ARRIVED


@pytest.fixture
def storage(models_dir, tmp_path) -> Storage:
    storage = Storage(Settings(model="colours", models_dir=models_dir, var_dir=tmp_path))
    storage.open(threading.Event())
    yield storage
    storage.close()


@pytest.fixture
def worker(storage, models_dir):
    """A worker whose leases end at once."""
    with ThreadPoolExecutor(2) as compute:
        worker = Worker(storage=storage, shelf=Shelf(Settings(model="colours", models_dir=models_dir)), compute=compute,
                        limits=Limits(), batch=2, lease_s=0.01, poll_s=0.02, retry_s=0.001)
        yield worker
        worker.stop()


def add(storage: Storage, request_id: str, picture: bytes | None) -> None:
    from shutterless.results import Arrival

    key = f"uploads/classify/{request_id}.jpg"
    if picture is not None:
        storage.objects.put(key, picture, "image/jpeg")
    storage.results.add_pending(request_id, Arrival(object_key=key, content_type="image/jpeg"))


def settled(storage: Storage, request_id: str):
    for _ in range(1000):
        record = storage.results.get(request_id)
        if record.status != "pending":
            return record
        time.sleep(0.02)
    raise AssertionError("still pending")


def test_what_was_pending_before_the_start_is_taken(storage, worker, jpeg) -> None:
    for number in range(5):
        add(storage, f"r{number}", jpeg("blue"))
    worker.start()
    assert [settled(storage, f"r{number}").predicted_label for number in range(5)] == ["blue"] * 5


def test_a_picture_that_is_gone_is_failed(storage, worker) -> None:
    add(storage, "gone", None)
    worker.start()
    assert settled(storage, "gone").error["title"] == "Not found"


def test_a_record_that_is_deleted_meanwhile_stops_nobody(storage, worker, jpeg) -> None:
    add(storage, "deleted", jpeg())
    storage.results.delete("deleted")
    add(storage, "next", jpeg())
    worker.start()
    assert settled(storage, "next").status == "done"


def test_a_temporary_fault_is_tried_again(storage, worker, jpeg, monkeypatch) -> None:
    get, faults = storage.objects.get, [Unavailable("The disk is busy."), RuntimeError("a bug")]

    def get_or_fail(key: str, version: str | None = None) -> bytes:
        if faults:
            raise faults.pop(0)
        return get(key, version)

    monkeypatch.setattr(storage.objects, "get", get_or_fail)
    add(storage, "later", jpeg("green"))
    worker.start()
    record = settled(storage, "later")
    assert (record.status, record.predicted_label, record.attempts) == ("done", "green", 3)


def test_a_database_that_is_away_is_told_once_and_its_return_once(storage, worker, jpeg, monkeypatch, caplog) -> None:
    claim, faults = storage.results.claim, [Unavailable("The database does not answer.")] * 5

    def claim_or_fail(*arguments: object) -> object:
        if faults:
            raise faults.pop()
        return claim(*arguments)

    monkeypatch.setattr(storage.results, "claim", claim_or_fail)
    add(storage, "waiting", jpeg())
    worker.start()
    assert settled(storage, "waiting").status == "done"
    assert [record.levelname for record in caplog.records if "No work" in record.message] == ["ERROR", "WARNING"]


def test_after_five_attempts_it_is_stalled_and_the_picture_is_kept(storage, worker, jpeg, monkeypatch) -> None:
    get = storage.objects.get
    tries = []
    monkeypatch.setattr(storage.objects, "get", lambda *key: tries.append(key) or 1 / 0)
    add(storage, "stuck", jpeg())
    worker.start()
    record = settled(storage, "stuck")
    assert record.status == "stalled"
    assert len(tries) == record.attempts == MAX_ATTEMPTS
    assert "ZeroDivisionError" not in str(record.error)
    assert get("uploads/classify/stuck.jpg") == jpeg()


def test_a_picture_that_ended_the_process_each_time_is_not_taken_a_sixth_time(storage, worker, jpeg) -> None:
    add(storage, "poison", jpeg())
    for _ in range(MAX_ATTEMPTS):
        assert len(storage.results.claim(1, 60)) == 1
        storage.results.release_claims()  # as the next start does
    worker.start()
    assert settled(storage, "poison").status == "stalled"


def test_an_upload_wakes_the_worker_at_once(storage, models_dir, jpeg) -> None:
    with ThreadPoolExecutor(1) as compute:
        worker = Worker(storage=storage, shelf=Shelf(Settings(model="colours", models_dir=models_dir)), compute=compute,
                        limits=Limits(), batch=1, poll_s=3600)
        worker.start()
        time.sleep(0.1)  # it has looked once, and waits
        add(storage, "new", jpeg())
        worker.wake()
        assert settled(storage, "new").status == "done"
        worker.stop()


def test_many_forms_that_are_over_at_once_keep_no_picture_waiting_for_long(storage, worker, jpeg, monkeypatch) -> None:
    """Told by a clock on which each look at it takes 0.1 s."""
    from shutterless.expiry import AT_ONCE
    from shutterless.results import Arrival

    for number in range(10 * AT_ONCE):
        storage.results.add_pending(f"over{number}", Arrival(object_key=f"uploads/classify/{number}.jpg"), expected_s=-1)
    add(storage, "came", jpeg("green"))
    ticks, claim, left = count(step=0.1), storage.results.claim, []
    monkeypatch.setattr("shutterless.expiry.monotonic", lambda: next(ticks))
    monkeypatch.setattr(storage.results, "claim", lambda *how: left.append(len(storage.results.expected(1_000))) or claim(*how))
    worker.start()
    assert settled(storage, "came").predicted_label == "green"
    assert left[0] >= 8 * AT_ONCE
    assert settled(storage, f"over{10 * AT_ONCE - 1}").error == NEVER_ARRIVED
    assert storage.results.expected(1_000) == []


def test_stopping_finishes_what_was_taken(storage, worker, jpeg, monkeypatch) -> None:
    taken, go_on, get = threading.Event(), threading.Event(), storage.objects.get

    def slow_get(*key: str) -> bytes:
        taken.set()
        go_on.wait(10)
        return get(*key)

    monkeypatch.setattr(storage.objects, "get", slow_get)
    add(storage, "last", jpeg())
    worker.start()
    taken.wait(10)
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    go_on.set()
    stopping.join(10)
    assert storage.results.get("last").status == "done"


def test_the_pauses_between_tries_grow_and_a_terminal_state_stays(storage, models_dir, jpeg, monkeypatch) -> None:
    pauses, defer = [], storage.results.defer
    monkeypatch.setattr(storage.results, "defer", lambda request_id, pause_s: pauses.append(pause_s) or defer(request_id, 0))
    monkeypatch.setattr(storage.objects, "get", lambda *key: 1 / 0)
    add(storage, "stuck", jpeg())
    with ThreadPoolExecutor(1) as compute:
        worker = Worker(storage=storage, shelf=Shelf(Settings(model="colours", models_dir=models_dir)), compute=compute,
                        limits=Limits(), batch=1, poll_s=0.02)
        worker.start()
        assert settled(storage, "stuck").status == "stalled"
        worker.wake()
        time.sleep(0.2)
        worker.stop()
    assert pauses == [5, 20, 80, 320]
    assert (storage.results.get("stuck").status, storage.results.get("stuck").attempts) == ("stalled", MAX_ATTEMPTS)


@pytest.mark.parametrize("held_at", ["get", "finish"])
def test_a_result_that_is_deleted_while_the_worker_holds_it_stays_gone(storage, worker, jpeg, monkeypatch, held_at) -> None:
    """Before its picture is read, and after."""
    from shutterless import records

    reached, go_on = threading.Event(), threading.Event()
    owner = storage.objects if held_at == "get" else storage.results
    do = getattr(owner, held_at)

    def wait_and_do(*arguments: object, **more: object) -> object:
        reached.set()
        go_on.wait(10)
        return do(*arguments, **more)

    monkeypatch.setattr(owner, held_at, wait_and_do)
    add(storage, "held", jpeg())
    add(storage, "next", jpeg())
    worker.start()
    assert reached.wait(10)
    records.forget(storage.results, storage.objects, "held")
    go_on.set()
    assert settled(storage, "next").status == "done"
    worker.stop()
    assert storage.results.get("held") is None
    assert not storage.objects.has("uploads/classify/held.jpg")
