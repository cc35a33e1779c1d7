"""Our real server on the tiny bundle, started as the benchmarks start it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.contestants import OURS, Running, running
from benchmarks.load import some_pictures


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    return some_pictures()[1]


@pytest.fixture(scope="module")
def ours(models_dir: Path, pictures: list[bytes]) -> Iterator[Running]:
    with running(OURS, models_dir / "colours/1", OURS.settings("fp32"), pictures[0]) as server:
        yield server
