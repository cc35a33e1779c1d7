"""Steps as a person sees them."""

import io

import pytest
from rich.console import Console

from rehearsal.gaps import Gap
from rehearsal.watched import CheckFailed, Steps, expect


@pytest.fixture
def steps() -> Steps:
    return Steps(Console(file=io.StringIO(), width=200))


def written(steps: Steps) -> str:
    file = steps.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_step_is_one_line_with_its_time(steps: Steps):
    with steps.step("deploy [all]") as step:
        step.notes.append("2 images")
    [line] = written(steps).splitlines()
    assert line.startswith("✓")
    assert " s  deploy [all]  2 images" in line
    assert not steps.has_failed


def test_a_failed_check_is_told_and_the_next_one_follows(steps: Steps):
    with steps.check("first"):
        expect(False, "expected one row, got two")
    with steps.check("second"):
        pass
    assert "expected one row, got two" in written(steps)
    assert "second" in written(steps)
    assert steps.has_failed


def test_a_failed_step_ends_the_rehearsal(steps: Steps):
    with pytest.raises(CheckFailed), steps.step("deploy"):
        expect(False, "it did not")
    assert steps.done[0].failure == "it did not"


def test_an_interruption_ends_a_check_too(steps: Steps):
    with pytest.raises(KeyboardInterrupt), steps.check("long"):
        raise KeyboardInterrupt
    assert steps.has_failed


def test_the_table_tells_what_was_rehearsed_what_failed_and_what_was_not(steps: Steps):
    with steps.check("predict"):
        pass
    with steps.check("upload"):
        expect(False, "no row")
    steps.console.print(steps.table([Gap(what="IAM login", why="No tokens there.", held_by="Tests.")]))
    words = ("rehearsed", "failed", "not rehearsed")
    told = [line.strip().split("  ")[0] for line in written(steps).splitlines() if line.strip().startswith(words)]
    assert told == ["rehearsed", "failed", "not rehearsed"]


def test_the_table_tells_the_seconds_of_each_step(steps: Steps):
    with steps.check("predict") as step:
        step.notes.append("Forest")
    step.seconds = 12.34
    steps.console.print(steps.table([]))
    [row] = [line.split() for line in written(steps).splitlines() if line.strip().startswith("rehearsed")]
    assert row == ["rehearsed", "predict", "12.3", "Forest"]
