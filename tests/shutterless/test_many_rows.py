"""Pages over 100,000 rows: whole, each row once, and without reading what they do not show."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from shutterless.results import Results, migrate, open_results
from shutterless.results import results as table

ROWS, PAGE = 100_000, 100
START = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = 20_000  # of SQLite's machine, for a page that an index leads to; reading all rows takes 300,000


def row(number: int) -> dict[str, object]:
    return {"request_id": f"r{number}", "task": "classify", "status": "failed" if number % 500 == 0 else "done",
            "predicted_label": f"label-{number % 10}", "created_at": START + timedelta(seconds=number), "latency_ms": 1.0}


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Results, Callable[[], int]]]:
    """100,000 results, and how many steps SQLite took since this was asked last."""
    url = f"sqlite:///{tmp_path_factory.mktemp('many') / 'results.db'}"
    migrate(url)
    results, steps = open_results(url), [0]

    def stepped() -> None:
        steps[0] += 100

    sa.event.listen(results._engine, "checkout", lambda connection, *_: connection.set_progress_handler(stepped, 100))
    with results._engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.execute(sa.insert(table), [row(number) for number in range(ROWS)])
        connection.exec_driver_sql("COMMIT")

    def since() -> int:
        taken, steps[0] = steps[0], 0
        return taken

    yield results, since
    results.close()


def walk(results: Results, **which: object) -> Iterator[str]:
    cursor: str | None = None
    while True:
        page = results.page(limit=PAGE, cursor=cursor, **which)
        yield from (record.request_id for record in page.records)
        cursor = page.next_cursor
        if cursor is None:
            return


@pytest.mark.parametrize(("which", "every", "at"), [({}, 1, 0), ({"label": "label-3"}, 10, 3), ({"status": "failed"}, 500, 0)],
                         ids=["all", "label", "status"])
def test_a_walk_meets_each_row_once_newest_first_and_each_page_costs_the_same(counted, which, every, at) -> None:
    results, since = counted
    since()
    expected = [f"r{number}" for number in reversed(range(ROWS)) if number % every == at]
    assert list(walk(results, **which)) == expected
    assert since() <= STEPS * (len(expected) // PAGE + 1)


def test_one_result_and_the_queue_are_found_without_a_search(counted) -> None:
    results, since = counted
    since()
    assert results.get("r77777").predicted_label == "label-7"
    assert results.backlog().pending == results.count_pending(1_000) == len(results.expected(1_000)) == 0
    assert results.claim(2, 30) == []
    assert since() <= STEPS


def test_a_span_of_time_costs_one_look_at_each_row_at_most(counted) -> None:
    results, since = counted
    since()
    page = results.page(limit=PAGE, from_=START + timedelta(seconds=1_000), to=START + timedelta(seconds=1_050))
    assert [record.request_id for record in page.records] == [f"r{number}" for number in reversed(range(1_000, 1_050))]
    assert since() <= 5 * ROWS
