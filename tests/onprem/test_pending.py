import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import pytest

from onprem.pending import LOOK_AGAIN_S, LOOK_S, Announced, Pending, QueueFull, most_announced
from shutterless.errors import Unavailable


def test_no_more_may_wait_than_the_setting_says_until_some_are_answered(open_door, jpeg, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("onprem.pending.LOOK_S", 0.0)
    monkeypatch.setattr("onprem.pending.LOOK_AGAIN_S", 0.0)
    client = open_door(max_pending=3)
    client.get("/results")  # answers when the database is open
    client.door.worker.stop()
    announced = {"content_type": "image/jpeg", "size_bytes": len(jpeg())}
    form = client.post("/uploads", json=announced).json()
    waiting = [client.post("/upload-image", content=jpeg()).json()["request_id"] for _ in range(2)]
    for refused in (client.post("/upload-image", content=jpeg()), client.post("/upload-image", content=jpeg())):
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert refused.json()["detail"].startswith("3 uploads wait for their answers already. Send this one again later")
    assert len([path for path in (tmp_path / "var/objects").rglob("*") if path.is_file()]) == 2
    assert client.get("/results").json()["count"] == 3
    assert client.post("/upload", content=jpeg()).status_code == 200, "what is answered at once does not wait"
    assert client.post(form["url"], data=form["fields"], files={"file": jpeg()}).status_code == 204, "it has its place"
    assert client.post("/uploads", json=announced).status_code == 503
    client.delete(f"/results/{waiting[0]}")
    assert client.post("/upload-image", content=jpeg()).status_code == 202
    assert 'shutterless_failures_total{reason="queue_full",way="request"} 3.0' in client.get("/metrics").text


def test_who_only_announces_shuts_out_no_upload(open_door, jpeg, monkeypatch) -> None:
    monkeypatch.setattr("onprem.pending.LOOK_S", 0.0)
    monkeypatch.setattr("onprem.pending.LOOK_AGAIN_S", 0.0)
    client = open_door(max_pending=30)
    announced = {"content_type": "image/jpeg", "size_bytes": len(jpeg())}
    tried = [client.post("/uploads", json=announced) for _ in range(40)]
    forms = [answer.json() for answer in tried if answer.status_code == 201]
    assert len(forms) == 3
    refused = client.post("/uploads", json=announced)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert refused.json()["detail"].startswith("3 announced pictures have not come yet. Announce this one again later")
    assert client.post("/upload-image", content=jpeg()).status_code == 202
    assert client.post(forms[0]["url"], data=forms[0]["fields"], files={"file": jpeg()}).status_code == 204
    client.delete(f"/results/{forms[1]['request_id']}")
    assert [client.post("/uploads", json=announced).status_code for _ in range(3)] == [201, 201, 503]


def test_who_announces_with_one_key_leaves_half_of_the_places_to_the_others(open_door, jpeg, monkeypatch) -> None:
    monkeypatch.setattr("onprem.pending.LOOK_S", 0.0)
    monkeypatch.setattr("onprem.pending.LOOK_AGAIN_S", 0.0)
    client = open_door(max_pending=80, api_keys=("greedy", "modest"))

    def announce(key: str) -> httpx.Response:
        return client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": len(jpeg())}, headers={"x-api-key": key})

    tried = [announce("greedy") for _ in range(8)]
    assert [answer.status_code for answer in tried] == [201] * 4 + [503] * 4
    assert tried[-1].headers["retry-after"] == "10"
    assert tried[-1].json()["detail"].startswith("Of the pictures that you announced, 4 have not come yet")
    assert [announce("modest").status_code for _ in range(2)] == [201, 201]
    assert announce("greedy").status_code == 503
    for form in (answer.json() for answer in tried[:4]):
        assert client.post(form["url"], data=form["fields"], files={"file": jpeg()}).status_code == 204
    assert announce("greedy").status_code == 201


@pytest.fixture
def announced() -> Callable[[int, list[str]], Announced]:
    """`announced(5, rows)`: of at most five, of which `rows` wait; it looks each time."""
    return lambda most, rows: Announced(most, lambda limit: rows[:limit], now=count(step=60.0).__next__)


def write(announced: Announced, rows: list[str], request_id: str, holder: bytes | None) -> None:
    with announced.place(request_id, holder):
        rows.append(request_id)


def test_a_row_that_is_being_written_is_its_holders_though_nobody_finds_it(announced) -> None:
    rows = list[str]()
    places = announced(5, rows)
    with places.place("slow", b"one"):
        write(places, rows, "a", b"one")
        write(places, rows, "b", b"one")
        with pytest.raises(QueueFull, match="you announced, 3 have not come"):
            write(places, rows, "c", b"one")
    write(places, rows, "c", b"one")  # the slow one was never written


def test_rows_from_before_a_start_are_nobodys_and_are_counted(announced) -> None:
    rows = [f"before{number}" for number in range(6)]
    places = announced(8, rows)
    write(places, rows, "a", b"one")
    with pytest.raises(QueueFull, match="you announced, 1 have not come"):
        write(places, rows, "b", b"one")
    write(places, rows, "b", b"two")
    with pytest.raises(QueueFull, match="8 announced pictures"):
        write(places, rows, "c", b"three")


def test_where_no_key_is_asked_for_all_places_are_one_clients(announced) -> None:
    rows = list[str]()
    places = announced(3, rows)
    for number in range(3):
        write(places, rows, f"{number}", None)
    with pytest.raises(QueueFull, match="3 announced pictures"):
        write(places, rows, "c", None)


def test_few_of_those_that_wait_may_be_announced_alone() -> None:
    assert [most_announced(most) for most in (1, 9, 30, 1_000, 100_000, 10**8)] == [1, 1, 3, 100, 1_000, 1_000]


def test_between_two_counts_what_came_is_added() -> None:
    now, rows, looks = [0.0], [8], []

    def count(most: int) -> int:
        looks.append(now[0])
        return min(rows[0], most)

    pending = Pending(10, count, now=lambda: now[0])
    pending.admit()
    pending.admit()
    rows[0] = 0
    with pytest.raises(QueueFull):
        pending.admit()
    now[0] = LOOK_S
    for _ in range(10):
        pending.admit()
    with pytest.raises(QueueFull):
        pending.admit()
    assert looks == [0.0, LOOK_S]


def test_before_somebody_is_sent_away_is_counted_anew() -> None:
    now, rows = [0.0], [2]
    pending = Pending(2, lambda most: rows[0], now=lambda: now[0])
    with pytest.raises(QueueFull):
        pending.admit()
    rows[0], now[0] = 1, LOOK_AGAIN_S
    pending.admit()


def test_a_count_that_fails_is_not_tried_by_everybody() -> None:
    looks = []

    def count(most: int) -> int:
        looks.append(most)
        raise Unavailable("The database does not answer.")

    pending = Pending(1, count, now=lambda: 5.0)
    with pytest.raises(Unavailable):
        pending.admit()
    pending.admit()
    assert looks == [1]


def test_while_one_counts_nobody_else_waits() -> None:
    counting, go_on = threading.Event(), threading.Event()

    def count(most: int) -> int:
        counting.set()
        assert go_on.wait(30)
        return 2

    pending = Pending(5, count)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(pending.admit)
        assert counting.wait(30)
        pending.admit()  # by the number before
        go_on.set()
        first.result(30)
    pending.admit()
    with pytest.raises(QueueFull):
        pending.admit()
