"""Nothing that a rehearsal starts goes on behind it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import processes
from rehearsal.processes import Late, end_marked, ended, marked, marked_ids

PARENT = "sleep 300 & echo $!; wait"


def has_ended(process: int) -> bool:
    """Within seconds: a signal takes effect when its process has its turn."""
    until = time.monotonic() + 10
    while (is_there := _is_there(process)) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_there


def _is_there(process: int) -> bool:
    """A zombie is not: whoever inherited it has not looked yet."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def start(folder: Path, program: str = PARENT) -> tuple[subprocess.Popen[bytes], int]:
    """A shell that starts another process, as cdk starts docker and python: both."""
    process = subprocess.Popen(["sh", "-c", program], env=marked(folder, {}), stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout
    return process, int(process.stdout.readline())


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    process, child = start(tmp_path)
    yield process, child
    assert process.stdout
    process.stdout.close()
    process.kill()
    process.wait()


def test_what_hangs_is_ended_with_all_its_children(family: tuple[subprocess.Popen[bytes], int]):
    process, child = family
    with pytest.raises(Late, match="cdk deploy has not ended within 0 s"), ended(process, "cdk deploy"):
        process.wait(0.2)
    assert process.poll() is not None
    assert has_ended(child)


def test_an_interruption_ends_them_too_and_goes_on(family: tuple[subprocess.Popen[bytes], int]):
    process, child = family
    with pytest.raises(KeyboardInterrupt), ended(process, "cdk deploy"):
        raise KeyboardInterrupt
    assert process.poll() is not None
    assert has_ended(child)


def test_a_run_s_processes_are_found_by_its_mark_and_no_others(family: tuple[subprocess.Popen[bytes], int], tmp_path: Path):
    process, child = family
    assert set(marked_ids(tmp_path)) == {process.pid, child}
    assert marked_ids(tmp_path / "another") == []
    assert os.getpid() not in marked_ids(tmp_path)


def test_they_are_ended_by_force_where_they_are_deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    deaf = "import signal, os; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    process, _ = start(tmp_path, f'exec {sys.executable} -c "{deaf}"')
    assert process.stdout
    with process.stdout:
        end_marked(tmp_path)
        assert process.wait(10) == -signal.SIGKILL
    assert marked_ids(tmp_path) == []


def test_what_the_environment_says_of_aws_is_not_carried_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Somebody's own account is never meant here."""
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("KEPT", "yes")
    environment = marked(tmp_path, {"AWS_REGION": "us-east-1"})
    assert "AWS_PROFILE" not in environment
    assert (environment["AWS_REGION"], environment["KEPT"]) == ("us-east-1", "yes")
