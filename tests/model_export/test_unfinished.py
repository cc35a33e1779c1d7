from pathlib import Path

import pytest

from model_export.errors import ExportError
from model_export.unfinished import written_whole
from shutterless.bundles import list_bundles


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


def test_a_version_that_is_there_stays_as_it_is(tmp_path: Path):
    (tmp_path / "roofs" / "1").mkdir(parents=True)
    with pytest.raises(ExportError, match="a version never changes"), written_whole(tmp_path / "roofs" / "1"):
        pass
    assert [path.name for path in (tmp_path / "roofs").iterdir()] == ["1"]


def test_a_file_where_a_folder_has_to_be_is_refused(tmp_path: Path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ExportError, match="got a file in it"), written_whole(tmp_path / "models" / "roofs" / "1"):
        pass
