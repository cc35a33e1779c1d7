import io

import pytest

from cli.progress import FEW, progress


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
