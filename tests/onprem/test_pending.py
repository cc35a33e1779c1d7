import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from onprem.pending import LOOK_AGAIN_S, LOOK_S, Pending, QueueFull, most_announced
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
