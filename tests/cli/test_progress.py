import io

import pytest

from cli.progress import FEW, progress, steps


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("screen", "total", "seen"), [
    (Terminal(), FEW + 1, True), (Terminal(), FEW, False), (io.StringIO(), 1000, False)])
def test_a_bar_is_shown_for_many_items_in_a_terminal_and_nowhere_else(monkeypatch, capsys, screen, total, seen):
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress(range(total), total=total, of="pictures")) == list(range(total))
    assert (f"{total}/{total}" in screen.getvalue()) == seen
    assert capsys.readouterr().out == ""


def test_a_step_does_not_take_over_the_number_of_the_one_before(monkeypatch):
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with steps() as (step, advance):
        step("parity: asking both")
        advance(3, 10)
        step("graph: writing")
    assert screen.getvalue().count("• ") == 2
    last = screen.getvalue().rpartition("graph")[2]
    assert "0/?" in last
    assert "10" not in last
