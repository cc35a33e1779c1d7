"""Ending well: interruptions, and processes that do not want to end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rehearsal import emulator_process, play, project, traces
from rehearsal.account import Account
from rehearsal.emulator_process import Place
from rehearsal.traces import read_traces
from rehearsal.watched import CheckFailed, Steps


def test_sigterm_is_as_ctrl_c_and_both_are_deaf_while_things_are_taken_away():
    def be_interrupted_twice() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # whoever starts the tests in the background has it ignored
    with pytest.raises(KeyboardInterrupt), play._interruptible():
        be_interrupted_twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_emulator_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emulator_process, "STOP_S", 0.2)
    monkeypatch.setattr(emulator_process, "remove_containers", lambda label: None)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout:
        process.stdout.readline()
        emulator_process.stop(Place("127.0.0.1", 1), process)
    assert process.returncode == -signal.SIGKILL


class _BuiltError(Exception):
    pass


def test_while_postgresql_s_image_is_built_no_other_program_gets_the_emulator_s_port(tmp_path: Path, monkeypatch):
    def build_postgres(*_: object) -> None:
        place = read_traces().place
        for address in ("127.0.0.1", place.address):
            with pytest.raises(OSError, match="in use"), socket.create_server((address, place.port)):
                pass
        raise _BuiltError

    for module, names in ((traces, {"STATE": tmp_path, "NOTE": tmp_path / "run.json"}), (play, {
            "RUN": tmp_path / "run", "bridge_address": lambda: "127.0.0.2", "image_names": set, "build_postgres": build_postgres,
            "_leave_nothing": lambda *_, **__: None})):
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    with pytest.raises(_BuiltError), ExitStack() as ending:
        play._play(Steps(Console(quiet=True)), ending, keep=False, base_image="")
    with socket.create_server(("127.0.0.1", read_traces().place.port)):
        pass


def test_the_copy_holds_what_a_deploy_reads_and_its_edit_is_not_ours(tmp_path: Path):
    project.copy_project(tmp_path / "copy")
    ours = (emulator_process.ROOT / "lambdas/predict.py").read_text()
    project.edit_handler(tmp_path / "copy")
    for name in ("app.py", "cdk.json", "docker/api.Dockerfile", "models/eurosat-lite0", "requirements/inference.txt"):
        assert (tmp_path / "copy" / name).exists()
    assert not any((tmp_path / "copy" / name).exists() for name in (".git", "var", "tests"))
    assert (emulator_process.ROOT / "lambdas/predict.py").read_text() == ours
    assert (tmp_path / "copy/lambdas/predict.py").read_text() != ours


def test_the_edited_handler_answers_as_before_and_says_that_it_was_edited():
    names = {"handler": lambda event, context: {"statusCode": 200, "headers": {"A": "b"}, "body": event}, "Any": object}
    exec(project.EDIT, names)
    assert names["handler"]("x", None) == {"statusCode": 200, "headers": {"A": "b", "X-Rehearsal": "edited"}, "body": "x"}


@pytest.mark.needs("docker", "emulator")
def test_what_a_deploy_leaves_in_the_account_is_told_by_name(emulator: Place, aws: Callable[[str], Any]):
    before = play._contents(Account(emulator))
    aws("sqs").create_queue(QueueName="forgotten")
    with pytest.raises(CheckFailed, match="forgotten"):
        play._expect_as_before(before, play._contents(Account(emulator)))
    aws("sqs").delete_queue(QueueUrl=aws("sqs").get_queue_url(QueueName="forgotten")["QueueUrl"])
    play._expect_as_before(before, play._contents(Account(emulator)))
