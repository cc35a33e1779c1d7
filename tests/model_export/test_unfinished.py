import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from model_export.errors import ExportError
from model_export.unfinished import replaced_whole, written_whole
from shutterless.bundles import list_bundles

ROOT = Path(__file__).parents[2]


def test_a_version_is_there_when_it_is_whole_and_not_before(tmp_path: Path):
    with written_whole(tmp_path / "roofs" / "1") as folder:
        (folder / "manifest.json").write_text("{}")
        assert list_bundles(tmp_path) == []
    assert list_bundles(tmp_path) == [tmp_path / "roofs" / "1"]


@pytest.mark.parametrize("end", [ExportError, KeyboardInterrupt, SystemExit])
def test_what_is_broken_off_leaves_nothing(tmp_path: Path, end: type[BaseException]):
    def write() -> None:
        with written_whole(tmp_path / "roofs" / "1") as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise end

    with pytest.raises(end):
        write()
    assert list(tmp_path.iterdir()) == []


def test_another_version_stays_when_one_is_broken_off(tmp_path: Path):
    with written_whole(tmp_path / "roofs" / "1"):
        pass
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "roofs" / "2"):
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "roofs").iterdir()] == ["1"]


def test_what_a_killed_process_left_is_no_part_of_the_next_one(tmp_path: Path):
    left = tmp_path / "roofs" / ".1.unfinished"
    (left / "plots").mkdir(parents=True)
    (left / "int8.onnx").write_bytes(b"half")
    with written_whole(tmp_path / "roofs" / "1") as folder:
        (folder / "model.onnx").write_bytes(b"whole")
    assert [path.name for path in (tmp_path / "roofs" / "1").iterdir()] == ["model.onnx"]


def test_two_at_once_do_not_write_into_one_folder(tmp_path: Path):
    with written_whole(tmp_path / "roofs" / "1") as folder:
        (folder / "model.onnx").write_bytes(b"first")
        with pytest.raises(ExportError, match="Another command is writing roofs/1"), written_whole(tmp_path / "roofs" / "1"):
            pass
        with written_whole(tmp_path / "roofs" / "2"):
            pass
    assert (tmp_path / "roofs" / "1" / "model.onnx").read_bytes() == b"first"


def test_whoever_comes_just_as_another_ends_is_told_what_is_there(tmp_path: Path, monkeypatch):
    """The other one ends between the opening of the lock and the locking: by then the lock is of nothing."""
    others = ExitStack()
    (others.enter_context(written_whole(tmp_path / "roofs" / "1")) / "model.onnx").write_bytes(b"first")
    with monkeypatch.context() as patched:
        patched.setattr("os.open", ending(others, os.open))
        with pytest.raises(ExportError, match="a version never changes"), written_whole(tmp_path / "roofs" / "1"):
            pass
    assert [path.name for path in (tmp_path / "roofs").iterdir()] == ["1"]
    assert (tmp_path / "roofs" / "1" / "model.onnx").read_bytes() == b"first"


def test_whoever_comes_just_as_another_breaks_off_writes_it(tmp_path: Path, monkeypatch):
    others = ExitStack()
    others.enter_context(suppress(KeyboardInterrupt))
    others.enter_context(written_whole(tmp_path / "roofs" / "1"))
    others.callback(interrupt)
    monkeypatch.setattr("os.open", ending(others, os.open))
    with written_whole(tmp_path / "roofs" / "1") as folder:
        monkeypatch.undo()
        (folder / "model.onnx").write_bytes(b"second")
        with pytest.raises(ExportError, match="Another command is writing roofs/1"), written_whole(tmp_path / "roofs" / "1"):
            pass
    assert [path.name for path in (tmp_path / "roofs").iterdir()] == ["1"]
    assert (tmp_path / "roofs" / "1" / "model.onnx").read_bytes() == b"second"


def interrupt() -> None:
    raise KeyboardInterrupt


def ending(others: ExitStack, opened: Callable[..., int]) -> Callable[..., int]:
    """os.open, behind which `others` end, the first time."""
    def opening(*arguments: object, **named: object) -> int:
        file = opened(*arguments, **named)
        others.pop_all().close()
        return file
    return opening


HALF = """
import os, signal, sys
from pathlib import Path
from model_export.unfinished import replaced_whole

with replaced_whole(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_file_stays_as_it_was_when_its_writer_is_killed_and_the_next_one_replaces_it(tmp_path: Path):
    (tmp_path / "weights.pth").write_text("former")
    killed = subprocess.run([sys.executable, "-c", HALF, tmp_path / "weights.pth"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "weights.pth").read_text() == "former"
    with replaced_whole(tmp_path / "weights.pth") as unfinished:
        unfinished.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("weights.pth", "new")]


def test_a_file_stays_as_it_was_when_its_writing_fails(tmp_path: Path):
    (tmp_path / "report.md").write_text("former")

    def write() -> None:
        with replaced_whole(tmp_path / "report.md") as unfinished:
            unfinished.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.md", "former")]


def test_a_version_that_is_there_stays_as_it_is(tmp_path: Path):
    (tmp_path / "roofs" / "1").mkdir(parents=True)
    with pytest.raises(ExportError, match="a version never changes"), written_whole(tmp_path / "roofs" / "1"):
        pass
    assert [path.name for path in (tmp_path / "roofs").iterdir()] == ["1"]


def test_a_file_where_a_folder_has_to_be_is_refused(tmp_path: Path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ExportError, match="got a file in it"), written_whole(tmp_path / "models" / "roofs" / "1"):
        pass
