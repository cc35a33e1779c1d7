"""Whole processes: what is promised when they are killed, stopped, or must not start."""

import signal
import socket
import sqlite3

import httpx
import pytest

from onprem.listening import listen
from shutterless.errors import BadSettings
from shutterless.results import open_results

COLOURS = ("red", "green", "blue")


def test_kill_9_between_the_202_and_the_answer_loses_and_repeats_nothing(start, jpeg, settle, database_url) -> None:
    first = start(DATABASE_URL=database_url)
    with httpx.Client(base_url=first.url(), timeout=60) as client:
        ids = [client.post("/upload-image", files={"file": (f"{number}.jpg", jpeg(COLOURS[number % 3]))}).json()[
            "request_id"] for number in range(12)]
        first.kill()
    if database_url.startswith("postgresql"):  # other servers may be alive there: leases end by time, and 30 s is long
        results = open_results(database_url)
        results.release_claims()
        results.close()
    second = start(DATABASE_URL=database_url)
    with httpx.Client(base_url=second.url(), timeout=60) as client:
        records = [settle(client, request_id) for request_id in ids]
        assert [record["status"] for record in records] == ["done"] * 12
        assert [record["predicted_label"] for record in records] == [COLOURS[number % 3] for number in range(12)]
        assert client.get("/results?limit=100").json()["count"] == 12
        assert client.get("/stats").json()["by_status"] == {"pending": 0, "done": 12, "failed": 0, "stalled": 0}


def test_what_a_killed_server_had_claimed_is_taken_at_the_next_start(start, jpeg, settle, tmp_path) -> None:
    first = start()
    with httpx.Client(base_url=first.url(), timeout=60) as client:
        request_id = client.post("/upload-image", content=jpeg()).json()["request_id"]
        settle(client, request_id)
    first.kill()
    with sqlite3.connect(tmp_path / "var" / "shutterless.db") as connection:  # as if it had died while it classified
        connection.execute("UPDATE results SET status = 'pending', predicted_label = NULL, finished_at = NULL, "
                           "claimed_until = '9999-01-01 00:00:00.000000'")
    connection.close()
    second = start()
    with httpx.Client(base_url=second.url(), timeout=60) as client:
        assert settle(client, request_id)["predicted_label"] == "red"


def test_a_stopped_server_finishes_what_it_took_and_ends_quietly(start, jpeg) -> None:
    server = start()
    with httpx.Client(base_url=server.url(), timeout=60) as client:
        assert client.post("/upload-image", content=jpeg()).status_code == 202
    out, errors = server.stop()
    assert (out, errors) == ("", "")
    assert server.process.returncode == -signal.SIGTERM


def test_a_door_that_others_can_reach_is_not_opened_without_a_key(start) -> None:
    server = start(SHUTTERLESS_HOST="0.0.0.0")
    out, errors = server.process.communicate(timeout=60)
    assert server.process.returncode != 0
    assert "Listening" not in out
    assert "SHUTTERLESS_API_KEYS" in errors.splitlines()[-1]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost.invalid"])
def test_listening_is_refused_with_a_remedy(host: str) -> None:
    with pytest.raises(BadSettings, match="SHUTTERLESS_HOST"):
        listen(host, 0, locked=False)


def test_loopback_needs_no_key_and_all_addresses_may_be_had_with_one() -> None:
    for host, locked in (("127.0.0.1", False), ("localhost", False), ("127.0.0.2", False), ("0.0.0.0", True)):
        with listen(host, 0, locked=locked) as listener:
            assert listener.getsockname()[1] > 0


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(BadSettings, match=f"Port {port} "):
            listen("127.0.0.1", port, locked=False)


def test_a_model_that_is_not_there_ends_the_start_with_its_name(start) -> None:
    out, errors = start(SHUTTERLESS_MODEL="nope").process.communicate(timeout=60)
    assert "Listening" not in out
    assert "'nope'" in errors.splitlines()[-1]
