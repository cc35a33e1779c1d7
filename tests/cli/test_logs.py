"""Lines of several functions on an emulator of CloudWatch, as an operator reads them."""

import json
import time

import pytest

from cli.logs import readable, seconds
from cli.main import main
from infra.deployed import Deployed
from infra.tail import Logs, log_groups

REPORT = ("REPORT RequestId: 8a1d\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 512 MB\tMax Memory Used: 128 MB\t"
          "Init Duration: 301.50 ms\t\n")
COUNTED = {"_aws": {"Timestamp": 1, "CloudWatchMetrics": [{"Namespace": "Shutterless", "Dimensions": [["Function", "Stage"]],
                    "Metrics": [{"Name": "Requests", "Unit": "Count"}, {"Name": "Duration", "Unit": "Milliseconds"}]}]},
           "Function": "infer", "Stage": "dev", "request_id": "abc", "status": "done", "Requests": 1, "Duration": 12.5}


@pytest.fixture
def say(deployed_stage, boto_session):
    """`say("infer", ("text", seconds ago), ...)`"""
    client = boto_session.client("logs")

    def say(function: str, *lines: tuple[str, float]) -> None:
        group, stream = deployed_stage[f"{function.title()}Log"], str(time.perf_counter_ns())
        client.create_log_stream(logGroupName=group, logStreamName=stream)
        events = sorted(((round(1000 * (time.time() - ago)), text) for text, ago in lines))
        client.put_log_events(logGroupName=group, logStreamName=stream,
                              logEvents=[{"timestamp": at, "message": text} for at, text in events])
    yield say
    client.close()


def test_lines_of_all_functions_come_in_order_of_time(say, capsys):
    say("infer", ("first", 50), ("third", 30))
    say("upload", ("second", 40), ("fourth", 20))
    assert main(["logs", "dev"]) == 0
    words = [line.split()[2:] for line in capsys.readouterr().out.splitlines()]
    assert words == [["infer", "first"], ["upload", "second"], ["infer", "third"], ["upload", "fourth"]]


def test_one_function_and_a_time_choose(say, capsys):
    say("infer", ("old", 5_000), ("new", 30))
    say("upload", ("other", 30))
    assert main(["logs", "dev", "--function", "infer", "--since", "2m"]) == 0
    assert [line.split()[2:] for line in capsys.readouterr().out.splitlines()] == [["infer", "new"]]


def test_more_than_one_page_is_read(say, capsys):
    say("infer", *((f"line-{n}", 600 - n / 100) for n in range(600)))
    assert main(["logs", "dev", "--since", "1h"]) == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [f"line-{n}" for n in range(600)]


def test_an_unknown_function_is_told_with_those_that_are_there(deployed_stage, capsys):
    assert main(["logs", "dev", "--function", "nobody"]) == 1
    assert "expected one of infer, migrate, predict, query, upload, got nobody" in capsys.readouterr().err


def test_follow_goes_on_with_what_comes_and_tells_nothing_twice(say, deployed_stage, monkeypatch):
    """The pause is where the world goes on."""
    class EnoughError(Exception):
        pass

    worlds = [lambda: None, lambda: say("infer", ("late", 5), ("now", 0)), lambda: None]

    def pause(_: float) -> None:
        if not worlds:
            raise EnoughError
        worlds.pop(0)()

    monkeypatch.setattr("infra.tail.time.sleep", pause)
    say("infer", ("before", 3))
    told = []
    lines = Logs(Deployed("dev"), log_groups(deployed_stage)).follow(round(1000 * (time.time() - 60)))
    with pytest.raises(EnoughError):
        told.extend(line.text for line in lines)
    assert told == ["before", "late", "now"]


def test_ctrl_c_ends_it(say, monkeypatch, capsys):
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    say("infer", ("once", 3))
    monkeypatch.setattr("infra.tail.time.sleep", interrupt)
    assert main(["logs", "dev", "--follow"]) == 130
    assert capsys.readouterr().out.endswith("once\n")


def test_a_line_that_cloudwatch_counts_from_is_shortened():
    assert readable(json.dumps(COUNTED)) == ("INFO", "request_id=abc status=done Requests=1 Duration=12.5ms")


def test_an_error_is_one_with_its_trace_below():
    level, text = readable(json.dumps({"level": "ERROR", "request_id": "abc", "error": "It broke.", "trace": "a\n  b\n"}))
    assert (level, text) == ("ERROR", 'ERROR request_id=abc error="It broke."\na\n  b')


@pytest.mark.parametrize(("text", "level"), [
    ('{"status": 503, "path": "/results"}', "ERROR"), ('{"status": 404}', "INFO"), ('{"level": "WARNING"}', "WARNING"),
    ("2026-11-22T10:00:00Z 8a1d Task timed out after 60.00 seconds", "ERROR"), ("[ERROR] KeyError: 'x'", "ERROR"),
    ("REPORT RequestId: 8a1d\tDuration: 3.00 ms\tStatus: timeout", "ERROR"), (REPORT, "INFO"), ("plain", "INFO"),
    ('{"_aws": 7}', "INFO"), ('{"_aws": {"CloudWatchMetrics": [7]}}', "INFO"), ("[1, 2]", "INFO"), ("[" * 100_000, "INFO"),
    ("", "INFO")])
def test_levels(text, level):
    assert readable(text)[0] == level


def test_what_lambda_reports_is_short_and_its_beginnings_and_ends_are_left_out(say, capsys):
    say("infer", ("INIT_START Runtime Version: x", 5), ("START RequestId: 8a1d Version: 1", 4), (REPORT, 3),
        ("END RequestId: 8a1d", 2))
    assert main(["logs", "dev"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("REPORT  Duration 12.34 ms  Memory Size 512 MB  Max Memory Used 128 MB  Init Duration 301.50 ms")


def test_a_stranger_cannot_paint_the_terminal(say, capsys):
    say("upload", ("\x1b[2J\x1b]0;title\x07 [red]x[/red] \r\x00", 3))
    assert main(["logs", "dev"]) == 0
    told = capsys.readouterr().out
    assert not set(told) & set("\x1b\x07\r\x00")
    assert "\\x1b[2J" in told
    assert "[red]x[/red]" in told


def test_errors_are_red_where_a_person_looks(say, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    say("infer", ('{"level": "ERROR", "error": "broken"}', 3))
    assert main(["logs", "dev"]) == 0
    assert "\x1b[31m" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("10m", 600), ("2h", 7_200), ("1d", 86_400)])
def test_times(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "1w", "10 m", "9999999m", "1.5h"])
def test_what_is_no_time_is_typed_wrongly(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["logs", "dev", f"--since={text}"])
    assert stopped.value.code == 2
    assert "10m" in capsys.readouterr().err
