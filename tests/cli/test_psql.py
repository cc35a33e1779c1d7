"""A query from the command line to a real PostgreSQL, through the function's own code behind an HTTP server."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cli.main import main

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def database(new_database_with_roles) -> str:
    from shutterless.results import Arrival, open_results

    url = new_database_with_roles()
    results = open_results(url)
    results.add_pending("a", Arrival(image_name='ä,"\x1b[31m.png'))
    results.close()
    return url


class Function(BaseHTTPRequestHandler):
    """https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html"""

    answer = staticmethod(lambda event: {})

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            told, headers = self.answer(event), {}
        except Exception as error:  # what Lambda answers for a function that raises, whatever it raised
            told = {"errorMessage": str(error), "errorType": type(error).__name__}
            headers = {"X-Amz-Function-Error": "Unhandled"}
        body = json.dumps(told).encode()
        self.send_response(200 if self.path.split("/")[3] == "the-function-migrate" else 404)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def function(deployed_stage, database, monkeypatch):
    """The function migrate, as the Lambda API answers for it."""
    from lambdas.migrate import migrate
    from lambdas.storage import Storage
    from shutterless.settings import Settings

    settings = Settings(database_url=database)
    monkeypatch.setattr("lambdas.questions.write_line", lambda entry: None)  # the function's output is not the command's
    handler = type("Handler", (Function,), {"answer": staticmethod(
        lambda event: migrate(event, None, lambda: (settings, Storage(settings, {}))))})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_table_for_people(function, capsys):
    assert main(["psql", "dev", "select request_id, status, caption, image_name from results"]) == 0
    told = capsys.readouterr().out
    assert "request_id" in told
    assert [*told.splitlines()[-3].split()[:3]] == ["a", "pending", "NULL"]
    assert told.endswith("(1 row)\n")
    assert "\x1b" not in told


def test_json_and_csv_for_programs(function, capsys):
    query = "select request_id, image_name, duplicates, caption, array[1, 2] as pair from results"
    assert main(["psql", "dev", "--json", query]) == 0
    assert json.loads(capsys.readouterr().out) == {"request_id": "a", "image_name": 'ä,"\x1b[31m.png', "duplicates": 0,
                                                   "caption": None, "pair": [1, 2]}
    assert main(["psql", "dev", "--csv", query]) == 0
    assert capsys.readouterr().out == 'request_id,image_name,duplicates,caption,pair\na,"ä,""\x1b[31m.png",0,,"[1, 2]"\n'


def test_no_row(function, capsys):
    assert main(["psql", "dev", "select 1 as n where false"]) == 0
    assert capsys.readouterr().out.strip() == "(0 rows)"
    assert main(["psql", "dev", "--csv", "select 1 as n where false"]) == 0
    assert capsys.readouterr().out == "n\n"


def test_a_file_on_standard_input(function, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("select count(*)\nfrom results\n"))
    assert main(["psql", "dev", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 1}


def test_a_prompt_goes_on_after_a_mistake(function, capsys, monkeypatch):
    typed = iter(["selec 1", "", "select 7 as seven", "\\q"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main(["psql", "dev", "--json"]) == 0
    told = capsys.readouterr()
    assert told.out == '{"seven": 7}\n'
    assert "syntax error" in told.err


@pytest.mark.parametrize(("query", "says"), [
    ("select 1; drop table results", "cannot insert multiple commands"), ("drop table results", "nothing can be changed"),
    ("select nobody from results", 'column "nobody" does not exist'), ("", "expected one statement")])
def test_what_is_refused_is_told_in_one_sentence(function, capsys, query, says):
    assert main(["psql", "dev", query]) == 1
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""


def test_an_answer_that_was_cut_says_so(function, capsys):
    assert main(["psql", "dev", "--csv", "select g from generate_series(1, 20000) as g"]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 10_001
    assert "Only the first 10,000 rows" in told.err


def test_a_function_that_dies_is_told(function, capsys):
    function.answer = staticmethod(lambda event: 1 / 0)
    assert main(["psql", "dev", "select 1"]) == 1
    assert "ended without an answer: division by zero. Its log says more: shutterless logs dev." in capsys.readouterr().err


def test_a_stage_that_is_older_than_the_command_is_told(function, capsys):
    function.answer = staticmethod(lambda event: {"schema": "0001"})
    assert main(["psql", "dev", "select 1"]) == 1
    assert "Deploy the stage again: make deploy STAGE=dev." in capsys.readouterr().err
