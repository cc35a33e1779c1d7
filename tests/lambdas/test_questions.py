"""An operator's query, on a real PostgreSQL, as the function migrate runs it."""

import json
import time

import psycopg
import pytest

import lambdas.questions as questions
from lambdas.migrate import migrate
from lambdas.storage import Storage
from shutterless.questions import MAX_ROWS, MAX_VALUE
from shutterless.results import Arrival, Outcome, open_results
from shutterless.settings import Settings

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def database(new_database_with_roles) -> str:
    """Three results, one of them done."""
    url = new_database_with_roles()
    results = open_results(url)
    for request_id in ("a", "b", "c"):
        results.add_pending(request_id, Arrival(image_name="ä\x1b[31m.png"))
    results.finish("a", Outcome(predicted_label="Forest", confidence=0.75, top=[{"label": "Forest", "confidence": 0.75}]))
    results.close()
    return url


@pytest.fixture
def ask(database):
    def ask(query: object, **others: object) -> dict:
        settings = Settings(database_url=database)
        answer = migrate({"query": query, **others}, None, lambda: (settings, Storage(settings, {})))
        return json.loads(json.dumps(answer))
    return ask


def rows(database: str) -> list:
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT * FROM results ORDER BY id").fetchall()


def test_a_query_is_answered_with_columns_and_rows(ask):
    assert ask("select status, count(*) from results group by status order by status") == {
        "columns": ["status", "count"], "rows": [["done", 1], ["pending", 2]], "is_cut": False}


def test_no_row_is_an_answer_too(ask):
    assert ask("select id, status from results where false") == {"columns": ["id", "status"], "rows": [], "is_cut": False}


def test_values_are_what_json_and_psql_say(ask):
    told = ask("select confidence, top, predicted_label is null, null, 1.50::numeric, 'nan'::float8, 'infinity'::timestamptz, "
               "'\\xdead'::bytea, array[1, 2], '%s' from results where request_id = 'a' -- 100 %")
    assert told["rows"] == [[0.75, [{"label": "Forest", "confidence": 0.75}], False, None, "1.50", "nan", "infinity", "\\xdead",
                             [1, 2], "%s"]]


def test_columns_of_one_name_are_told_apart(ask):
    assert ask("select 1 as n, 2 as n, 3 as n_2")["columns"] == ["n", "n_2", "n_2_2"]


def test_a_plan_can_be_looked_at(ask):
    assert "results" in str(ask("explain (analyze) select * from results where status = 'pending'")["rows"])


@pytest.mark.parametrize("query", [
    "insert into results (request_id) values ('x')", "update results set status = 'done'", "delete from results",
    "with gone as (delete from results returning *) select * from gone", "explain analyze delete from results",
    "truncate results", "drop table results", "alter table results add column x int", "create table mine (x int)",
    "create temp table mine (x int)", "select * into mine from results", "create role me superuser",
    "grant all on results to public",
    "select nextval('results_id_seq')", "select lo_import('/etc/passwd')", "copy results to '/tmp/results'",
    "copy results to program 'id'", "copy results from '/etc/passwd'", "lock table results", "vacuum results",
    "alter role shutterless_reader superuser", "select pg_reload_conf()"])
def test_nothing_can_be_written(ask, database, query):
    before = rows(database)
    assert set(ask(query)) == {"error"}
    assert rows(database) == before


@pytest.mark.parametrize("query", [
    "select 1; delete from results", "commit; delete from results", "rollback; begin; delete from results",
    "set transaction read write; delete from results"])
def test_two_statements_are_none(ask, database, query):
    before = rows(database)
    assert "cannot insert multiple commands" in ask(query)["error"]
    assert rows(database) == before


@pytest.mark.parametrize("query", [
    "set transaction read write", "select set_config('transaction_read_only', 'off', false)", "set role postgres",
    "set session authorization postgres", "select set_config('role', 'shutterless_infer', false)"])
def test_no_word_leads_out_of_the_transaction_or_into_another_role(ask, query):
    assert set(ask(query)) == {"error"}


@pytest.mark.parametrize("statement", ["INSERT INTO results (request_id) VALUES ('x')", "DELETE FROM results",
                                       "UPDATE results SET status = 'done'", "TRUNCATE results", "DROP TABLE results",
                                       "CREATE TABLE mine (x int)", "SELECT * FROM alembic_version"])
def test_its_role_could_not_write_in_any_transaction(database, statement):
    with (psycopg.connect(questions.as_reader(database)) as connection,
          pytest.raises(psycopg.errors.InsufficientPrivilege)):
        connection.execute(statement)


@pytest.mark.parametrize("query", ["select * from pg_authid", "select pg_read_file('/etc/passwd')", "table alembic_version"])
def test_nothing_but_the_results_can_be_read(ask, query):
    assert "Expected a query that reads the table results" in ask(query)["error"]


@pytest.mark.parametrize("query", ["select pg_sleep(60)", "select count(*) from generate_series(1, 1000000000000) as s",
                                   "select set_config('statement_timeout', '0', false), pg_sleep(60)"])
def test_a_slow_query_is_ended(ask, monkeypatch, query):
    monkeypatch.setattr(questions, "LIMIT_S", 0.3)
    assert "takes longer than 0.3 s" in ask(query)["error"]


def test_a_huge_answer_is_cut_and_says_so(ask):
    told = ask("select g from generate_series(1, 1000000) as g")
    assert (told["is_cut"], len(told["rows"])) == (True, MAX_ROWS)
    wide = ask("select repeat('\N{PILE OF POO}', 5000) from generate_series(1, 1000)")
    assert wide["is_cut"]
    assert len(json.dumps(wide)) < 6_000_000, "what a function's answer may have"
    [[long]] = ask("select repeat('x', 1000000)")["rows"]
    assert len(long) == MAX_VALUE + 1


@pytest.mark.parametrize("query", ["", "  \n", "-- nothing", "begin", "listen x", "do $$ begin end $$", "copy results to stdout",
                                   "copy results from stdin", "select '\0'", "x" * 30_000, 7, None, ["select 1"]])
def test_what_is_no_question_is_told(ask, query):
    assert list(ask(query)) == ["error"]


def test_a_mistake_is_told_in_the_words_of_the_database_and_with_its_place(ask):
    assert ask("select stat from results")["error"] == (
        'PostgreSQL refuses the query: column "stat" does not exist. At character 8. Correct it.')


def test_an_event_of_api_gateway_is_no_question(ask, rest_event):
    assert "Expected" in ask("select 1", **rest_event("POST", "/predict", b"{}"))["error"]


def test_every_question_stands_in_the_log(ask, lines):
    ask("select 1")
    ask("selec 1")
    assert [(line["level"], line["query"], line.get("rows")) for line in lines()] == [
        ("INFO", "select 1", None), ("INFO", "select 1", 1), ("INFO", "selec 1", None), ("ERROR", "selec 1", None)]


def test_only_two_may_ask_at_once_so_that_the_functions_keep_their_connections(database, ask):
    reader = questions.as_reader(database)
    with psycopg.connect(reader), psycopg.connect(reader):
        assert ask("select 1") == {"error": "The database does not answer. Try again in a moment."}
    deadline_s = time.monotonic() + 10  # the server's processes end a little after their connections
    while "error" in (answer := ask("select 1")) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert answer["rows"] == [[1]]


def test_a_database_that_is_away_is_told_without_a_secret(lines):
    settings = Settings(database_url="postgresql://owner:secret@127.0.0.1:1/none")
    told = migrate({"query": "select 1"}, None, lambda: (settings, Storage(settings, {})))
    assert told == {"error": "The database does not answer. Try again in a moment."}
    assert "secret" not in str(lines())


@pytest.mark.parametrize(("url", "expected"), [
    ("postgresql://shutterless_owner@h:5432/d", "postgresql://shutterless_reader@h:5432/d"),
    ("postgres://o:p%40s@h/d?x=1", "postgresql://shutterless_reader:p%40s@h/d?x=1"),
    ("postgresql+psycopg://h/d", "postgresql://shutterless_reader@h/d")])
def test_the_reader_logs_in_where_the_owner_does(url, expected):
    assert questions.as_reader(url) == expected
