"""A database with a clock that stands."""

from datetime import UTC, datetime, timedelta

import pytest


class Clock:
    """A clock that stands until the test moves it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, 0, 0, 123_456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def forward(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def results(database_url: str, clock: Clock):
    from shutterless.results import migrate, open_results

    migrate(database_url)
    opened = open_results(database_url, now=clock)
    yield opened
    opened.close()
