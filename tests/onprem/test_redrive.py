import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from onprem.redrive import main, redrive
from shutterless.results import Arrival, Results, migrate, open_results
from shutterless.settling import STALLED


@pytest.fixture
def results(tmp_path) -> Results:
    url = f"sqlite:///{tmp_path / 'var/shutterless.db'}"
    migrate(url)
    results = open_results(url)
    yield results
    results.close()


def stall(results: Results, count: int) -> None:
    for number in range(count):
        results.add_pending(f"s{number}", Arrival(object_key=f"uploads/classify/s{number}.jpg", content_type="image/jpeg"))
        results.claim(1, 60)
        results.stall(f"s{number}", STALLED)


def test_what_was_given_up_is_answered_after_a_redrive_beside_the_server(open_door, jpeg, settle, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("onprem.worker.MAX_ATTEMPTS", 1)
    client = open_door()
    objects = client.door.storage.objects
    with monkeypatch.context() as broken:
        broken.setattr(objects, "get", lambda *key: 1 / 0)
        request_id = client.post("/upload-image", content=jpeg("blue")).json()["request_id"]
        assert settle(client, request_id)["status"] == "stalled"
    done = command(tmp_path / "var", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert request_id in done.stdout
    assert "1 of 1 sent back" in done.stdout
    client.door.worker.wake()
    record = settle(client, request_id)
    assert (record["status"], record["predicted_label"], record["error"]) == ("done", "blue", None)
    assert command(tmp_path / "var", "--yes").stdout == "No upload is stalled.\n"


def command(var_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """It, where nobody is there to be asked."""
    return subprocess.run([sys.executable, "-m", "onprem.redrive", *arguments], cwd=Path(__file__).parents[2], text=True,
                          env={"SHUTTERLESS_VAR_DIR": str(var_dir)}, capture_output=True, stdin=subprocess.DEVNULL, check=False)


def test_nothing_is_sent_back_where_nobody_says_so(results, tmp_path) -> None:
    stall(results, 1)
    done = command(tmp_path / "var")
    assert (done.returncode, "Nothing was sent" in done.stdout) == (0, True)
    assert results.get("s0").status == "stalled"


def test_all_of_them_are_sent_back_with_all_their_attempts(results, capsys) -> None:
    stall(results, 205)
    results.add_pending("waiting", Arrival())
    assert redrive(results, is_sure=True) == 0
    assert "205 uploads are stalled" in capsys.readouterr().out
    assert results.stalled() == []
    claimed = results.claim(300, 60)
    assert (len(claimed), {record.attempts for record in claimed}) == (206, {1})


def test_one_row_that_cannot_be_sent_back_or_read_keeps_no_other_from_it(results, tmp_path, capsys) -> None:
    stall(results, 5)
    with closing(sqlite3.connect(tmp_path / "var/shutterless.db")) as database, database:
        database.execute("UPDATE results SET top = 'no JSON' WHERE request_id = 's3'")
        database.execute("CREATE TRIGGER refusal BEFORE UPDATE ON results WHEN old.request_id = 's1' "
                         "BEGIN SELECT RAISE(ABORT, 'not this one'); END")
    assert redrive(results, is_sure=True) == 1
    told = capsys.readouterr()
    assert "4 of 5 sent back" in told.out
    assert told.err == "shutterless: the database refused 1, which stay: s1 (IntegrityError).\n"
    assert [request_id for request_id, _ in results.stalled()] == ["s1"]


def test_interrupted_it_tells_what_was_sent_back_and_another_run_sends_the_rest(results, tmp_path, monkeypatch, capsys) -> None:
    stall(results, 5)
    monkeypatch.setenv("SHUTTERLESS_VAR_DIR", str(tmp_path / "var"))
    with monkeypatch.context() as hands:
        hands.setattr(Results, "revive", interrupted_at("s2", Results.revive))
        assert main(["--yes"]) == 130
    told = capsys.readouterr()
    assert ("2 of 5 sent back" in told.out, told.err) == (True, "")
    assert [request_id for request_id, _ in results.stalled()] == ["s2", "s3", "s4"]
    assert main(["--yes"]) == 0
    assert "3 of 3 sent back" in capsys.readouterr().out


def interrupted_at(where: str, revive: Callable[[Results, str], bool]) -> Callable[[Results, str], bool]:
    def reviving(results: Results, request_id: str) -> bool:
        if request_id == where:
            raise KeyboardInterrupt
        return revive(results, request_id)
    return reviving


def test_a_database_that_goes_away_half_way_is_told_with_what_was_sent_back(results, tmp_path, monkeypatch, capsys) -> None:
    stall(results, 3)
    monkeypatch.setenv("SHUTTERLESS_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setattr("shutterless.results._BUSY_S", 0.1)
    with closing(sqlite3.connect(tmp_path / "var/shutterless.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # it reads, and cannot write
        assert main(["--yes"]) == 1
    told = capsys.readouterr()
    assert "0 of 3 sent back" in told.out
    assert told.err == "shutterless: The database does not answer. Try again in a moment.\n"


def test_interrupted_at_the_question_nothing_is_sent(results, tmp_path, monkeypatch, capsys) -> None:
    stall(results, 1)
    monkeypatch.setenv("SHUTTERLESS_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setattr("builtins.input", interrupted)
    assert main([]) == 130
    assert "Nothing was sent" in capsys.readouterr().out
    assert results.get("s0").status == "stalled"


def interrupted(question: str) -> str:
    raise KeyboardInterrupt


def test_a_database_that_is_not_there_is_not_made_and_the_operator_told_where_to_look(tmp_path) -> None:
    done = command(tmp_path / "elsewhere", "--yes")
    assert done.returncode == 1
    assert done.stderr.startswith("shutterless: Expected the server's database, got none at ")
    assert "SHUTTERLESS_VAR_DIR" in done.stderr
    assert not (tmp_path / "elsewhere").exists()
