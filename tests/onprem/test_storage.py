import logging
import threading
from pathlib import Path

import pytest

from onprem.storage import Storage
from shutterless.settings import Settings


def test_an_outage_is_told_once_and_its_end_once(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("onprem.storage.RETRY_S", 0.01)
    in_the_way = tmp_path / "state"
    in_the_way.write_text("a file where the folder of the database would be")
    storage, failures = Storage(Settings(var_dir=in_the_way)), 0
    stopping = threading.Event()

    def wait(seconds: float) -> bool:
        nonlocal failures
        failures += 1
        if failures == 5:
            in_the_way.unlink()
        return False

    monkeypatch.setattr(stopping, "wait", wait)
    with caplog.at_level(logging.WARNING, "onprem.storage"):
        storage.open(stopping)
    assert failures == 5
    assert storage.state() == "ok"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "does not open" in caplog.records[0].message
    assert "It is over" in caplog.records[1].message
    storage.close()


@pytest.mark.parametrize("name", ["what?", "a?mode=ro", "100%", "größe #1"])
def test_any_folder_can_hold_the_state(tmp_path: Path, name: str) -> None:
    storage = Storage(Settings(var_dir=tmp_path / name))
    storage.open(threading.Event())
    assert storage.state() == "ok"
    storage.close()
    assert (tmp_path / name / "shutterless.db").is_file()
