import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg
import pytest
from sqlalchemy.exc import ProgrammingError

import shutterless.results as results_module
from lambdas.migrate import handler, migrate
from lambdas.storage import Storage
from shutterless.errors import BadSettings, Unavailable
from shutterless.migrations import HEAD, migrations_hash
from shutterless.migrations.roles import RIGHTS
from shutterless.results import Arrival, ErrorNote, Outcome, open_results
from shutterless.settings import Settings, variable_names

pytestmark = pytest.mark.needs("postgres")
AWAY = "postgresql://nobody:secret@127.0.0.1:1/none"


class Context:
    def __init__(self, left_ms: int = 60_000) -> None:
        self.left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        return self.left_ms


class Answers(list):
    """What CloudFormation was told; the first `refusals` are answered 503."""

    refusals = 0
    url = ""


@pytest.fixture
def cloudformation() -> Iterator[Answers]:
    """S3's end of a ResponseURL: it takes a PUT with an empty content type, since it was signed so."""
    told = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = 403 if self.headers.get("content-type") else 503 if told.refusals else 200
            told.refusals -= status == 503
            if status == 200:
                told.append(json.loads(body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_port}/answer?X-Amz-Signature=abc"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def asked(kind: str, url: str) -> dict:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-requests.html"""
    event = {"RequestType": kind, "ResponseURL": url, "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/s/1",
             "RequestId": "r-1", "ResourceType": "Custom::Schema", "LogicalResourceId": "Schema",
             "ResourceProperties": {"ServiceToken": "arn:aws:lambda:...", "Migrations": migrations_hash()}}
    return event if kind == "Create" else event | {"PhysicalResourceId": "shutterless-schema"}


def run(url: str, event: object = None, context: Context | None = None, **settings) -> dict:
    chosen = Settings(database_url=url, **settings)
    return migrate({} if event is None else event, context or Context(), lambda: (chosen, Storage(chosen, {})))


@pytest.fixture
def database(new_postgres_database) -> str:
    return new_postgres_database()


def test_by_hand_it_makes_schema_and_roles_and_says_so(database):
    done = run(database)
    assert done == {"schema": HEAD, "migrations": migrations_hash(), "roles": sorted(RIGHTS)}
    assert run(database) == done


@pytest.mark.parametrize("kind", ["Create", "Update", "Delete"])
def test_cloudformation_is_answered_whatever_it_asks(database, cloudformation, kind):
    run(database, asked(kind, cloudformation.url))
    [told] = cloudformation
    assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", "shutterless-schema")
    assert (told["StackId"], told["RequestId"], told["LogicalResourceId"]) == (
        asked(kind, "")["StackId"], "r-1", "Schema")


def test_delete_touches_nothing_and_needs_no_database(cloudformation):
    run(AWAY, asked("Delete", cloudformation.url))
    assert cloudformation[0]["Status"] == "SUCCESS"


def test_a_failure_is_told_in_one_sentence_without_a_secret(cloudformation, lines):
    run(AWAY, asked("Create", cloudformation.url), Context(1_000))
    [told] = cloudformation
    assert told["Status"] == "FAILED"
    assert told["Reason"] == "The database does not answer. Look whether it is starting, and deploy again."
    assert "secret" not in json.dumps([*lines(), told])


def test_a_bug_is_told_without_its_text(database, cloudformation, monkeypatch, lines):
    monkeypatch.setattr(results_module, "migrate", lambda *_, **__: 1 / 0)
    run(database, asked("Update", cloudformation.url))
    assert cloudformation[0]["Status"] == "FAILED"
    assert "division" not in cloudformation[0]["Reason"]
    assert any("division" in str(line) for line in lines())


def test_settings_that_cannot_work_are_told(cloudformation, tmp_path):
    run("", asked("Create", cloudformation.url))
    run("postgresql://admin@db.example.org/pictures", asked("Create", cloudformation.url), database_auth="iam")
    run("postgresql://admin@db.example.org/pictures", asked("Create", cloudformation.url), database_ca=tmp_path / "none.pem")
    assert [told["Status"] for told in cloudformation] == ["FAILED"] * 3
    assert [told["Reason"].partition(":")[0] for told in cloudformation] == [
        "DATABASE_URL", "SHUTTERLESS_DATABASE_AUTH=iam", "SHUTTERLESS_DATABASE_CA"]


@pytest.mark.parametrize(("kind", "status"), [("Create", "FAILED"), ("Update", "FAILED"), ("Delete", "SUCCESS")])
def test_settings_that_cannot_be_read_are_told_too(cloudformation, monkeypatch, kind, status):
    """Every one of them wrong: without an answer, CloudFormation would wait for an hour."""
    for name in variable_names():
        monkeypatch.setenv(name, "\x07 " + "x" * 100)
    handler(asked(kind, cloudformation.url), Context())
    [told] = cloudformation
    assert told["Status"] == status
    assert kind == "Delete" or "SHUTTERLESS_MAX_RECEIVES: expected" in told["Reason"]
    assert len(json.dumps(told)) < 4096


def test_an_answer_that_is_refused_is_given_again(database, cloudformation, lines):
    cloudformation.refusals = 2
    run(database, asked("Create", cloudformation.url))
    assert len(cloudformation) == 1


def test_by_hand_a_failure_is_raised():
    with pytest.raises(Unavailable):
        run(AWAY, context=Context(1_000))
    with pytest.raises(BadSettings):
        run("")


def test_it_waits_for_a_database_that_is_starting(new_postgres_database, monkeypatch):
    url, tries = new_postgres_database(), []

    class Starting(Storage):
        def reach(self, *, answer_s: float):
            tries.append(answer_s)
            return super().reach(answer_s=answer_s)

    monkeypatch.setattr("lambdas.migrate.sleep", lambda _: tries.append("waits"))
    monkeypatch.setattr("lambdas.migrate.database_url", lambda settings: AWAY if len(tries) < 4 else url)
    settings = Settings(database_url=url)
    assert migrate({}, Context(), lambda: (settings, Starting(settings, {})))["schema"] == HEAD
    assert tries == [45.0, "waits", 45.0, "waits", 45.0]


def test_many_at_once_leave_one_schema(database):
    with ThreadPoolExecutor(4) as deploys:
        done = list(deploys.map(lambda _: run(database), range(4)))
    assert done == [done[0]] * 4
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_a_deploy_that_is_rolled_back_leaves_a_newer_schema_as_it_is(database):
    run(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("ALTER TABLE results ADD COLUMN of_tomorrow text")
    assert run(database)["schema"] == HEAD
    results = open_results(database)
    assert results.add_pending("a", Arrival())
    assert results.finish("a", Outcome(predicted_label="x"))
    results.close()


# --- Roles

NOTE = ErrorNote(title="t", detail="d")
ALLOWED = {
    "upload": {"add_pending", "expire", "stall"},
    "infer": {"add_pending", "expire", "finish", "stall", "get", "get_all", "count_duplicate", "count_attempt", "claim", "late",
              "defer", "page", "stats"},
    "query": {"expire", "stall", "get", "get_all", "delete", "late", "defer", "page", "stats"},
}


@pytest.mark.parametrize("function", ALLOWED)
def test_a_role_may_do_what_its_function_does_and_nothing_else(database, function):
    run(database)
    results = open_results(database.replace("//postgres:@", f"//shutterless_{function}:@"))
    calls = {"add_pending": ("a", Arrival()), "expire": ("a", NOTE), "finish": ("a", Outcome()), "stall": ("b", NOTE),
             "get": ("a",), "get_all": (["a"],), "count_duplicate": ("a",), "count_attempt": ("a",), "claim": (1, 1.0),
             "late": (1, 1.0), "defer": ("a", 1.0),
             "page": (), "stats": (), "delete": ("a",)}
    may = set()
    for name, arguments in calls.items():
        with suppress(ProgrammingError):
            getattr(results, name)(*arguments)
            may.add(name)
    results.close()
    assert may == ALLOWED[function]


@pytest.mark.parametrize("statement", ["DROP TABLE results", "ALTER TABLE results ADD COLUMN x int", "TRUNCATE results",
                                       "CREATE TABLE mine (x int)", "UPDATE results SET predicted_label = 'x'",
                                       "SELECT * FROM alembic_version"])
def test_the_role_that_only_reads_can_neither_forge_nor_break(database, statement):
    run(database)
    with (psycopg.connect(database.replace("//postgres:@", "//shutterless_query:@")) as connection,
          pytest.raises(psycopg.errors.InsufficientPrivilege)):
        connection.execute(statement)


def test_rights_that_a_role_had_before_are_taken_away(database):
    run(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("GRANT DELETE ON results TO shutterless_infer")
        run(database)
        left = connection.execute("SELECT has_table_privilege('shutterless_infer', 'results', 'DELETE')").fetchone()
    assert left == (False,)


def test_a_password_stands_in_no_log_whatever_goes_wrong(database, lines):
    """Who migrates here may make roles, but the roles belong to somebody else."""
    run(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE stranger LOGIN CREATEROLE")
        connection.execute("GRANT SELECT ON alembic_version TO stranger")
        try:
            with pytest.raises(ProgrammingError) as refused:
                run(database.replace("//postgres:@", "//stranger:@"), role_password="opensesame")
        finally:
            connection.execute("DROP OWNED BY stranger")
            connection.execute("DROP ROLE stranger")
    assert "ALTER ROLE" in str(refused.value)
    assert "opensesame" not in str(refused.value) + str(lines())


def test_where_iam_is_known_roles_log_in_with_it_elsewhere_with_the_password(database):
    password = "pä'ss\\%s:\"x"
    run(database, role_password=password)
    with psycopg.connect(database, autocommit=True) as connection:
        verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'shutterless_query'"
        assert connection.execute(verifier).fetchone()[0].startswith("SCRAM-SHA-256")
        connection.execute("CREATE ROLE rds_iam")
        try:
            run(database)
            member = "SELECT pg_has_role('shutterless_query', 'rds_iam', 'member')"
            assert connection.execute(member).fetchone() == (True,)
        finally:
            connection.execute("DROP ROLE rds_iam")
