"""Shutterless's own commands, run as an operator runs them."""

from pathlib import Path

import pytest

from rehearsal.emulator_process import ROOT, Place
from rehearsal.operator import Operator
from rehearsal.processes import marked_ids
from rehearsal.watched import CheckFailed


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """Of an account that nobody answers for."""
    return Operator(Place("127.0.0.1", 1), tmp_path, ROOT)


def test_what_a_command_says_is_returned(operator: Operator):
    told = operator.run("cost")
    assert "Stage rehearsal" in told.out
    assert told.error == ""


def test_another_code_than_was_expected_is_told_with_the_command_s_words(operator: Operator):
    with pytest.raises(CheckFailed, match=r"(?s)expected it to end with 0, got 2: .*arguments: --nothing"):
        operator.run("cost", "--nothing")
    assert operator.run("cost", "--nothing", expect_code=2).out == ""


def test_a_log_that_ends_where_it_should_go_on_is_told_and_nothing_goes_on(operator: Operator, tmp_path: Path):
    with pytest.raises(CheckFailed, match="expected a line"):
        operator.follow(lambda: "never", within_s=60)
    assert marked_ids(tmp_path) == []
