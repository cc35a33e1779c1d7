from datetime import UTC, datetime, timedelta

import httpx
import pytest


@pytest.fixture
def filled(open_door, jpeg, settle, database_url) -> tuple[httpx.Client, list[str]]:
    """A server with three results, oldest first: red, green, blue."""
    client = open_door(database_url=database_url)
    ids = [client.post(f"/upload-image?true_label={truth}", content=jpeg(colour)).json()["request_id"]
           for colour, truth in (("red", "red"), ("green", "red"), ("blue", "blue"))]
    for request_id in ids:
        assert settle(client, request_id)["status"] == "done"
    return client, ids


def ids_of(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    assert answer.json()["count"] == len(answer.json()["results"])
    return [record["request_id"] for record in answer.json()["results"]]


def test_results_are_paged_newest_first_and_filtered(filled) -> None:
    client, ids = filled
    assert ids_of(client.get("/results")) == ids[::-1]
    first = client.get("/results?limit=2")
    assert ids_of(first) == ids[:0:-1]
    second = client.get("/results", params={"limit": 2, "cursor": first.json()["next_cursor"]})
    assert ids_of(second) == ids[:1]
    assert second.json()["next_cursor"] is None
    assert ids_of(client.get("/results?label=green")) == [ids[1]]
    assert ids_of(client.get("/results?status=failed")) == []
    left_empty = "request_id=&id=&label=&status=&cursor=&from=&to=&limit="
    assert ids_of(client.get(f"/results?{left_empty}")) == ids[::-1]
    assert ids_of(client.get("/results?status=done&limit=1")) == ids[2:]
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert ids_of(client.get("/results", params={"from": soon})) == []
    assert ids_of(client.get("/results", params={"to": soon})) == ids_of(client.get("/results", params={"to": soon.lower()})) \
        == ids[::-1]


def test_a_deleted_result_is_gone_with_its_picture(filled, jpeg, tmp_path) -> None:
    client, ids = filled
    image = client.get(f"/results/{ids[0]}/image")
    assert image.content == jpeg("red")
    assert image.headers["content-type"] == "image/jpeg"
    assert image.headers["x-content-type-options"] == "nosniff"
    gone = client.delete(f"/results/{ids[0]}")
    assert (gone.status_code, gone.content) == (204, b"")
    for answer in (client.get(f"/results/{ids[0]}/image"), client.delete(f"/results/{ids[0]}"),
                   client.get("/results", params={"request_id": ids[0]})):
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert ids_of(client.get("/results")) == ids[:0:-1]
    assert not list((tmp_path / "var" / "objects").rglob(f"{ids[0]}*"))


def test_stats_count_labels_accuracy_latency_and_this_machine(filled) -> None:
    client, _ = filled
    assert client.get("/stats?bucket=").status_code == 200  # a form left empty
    stats = client.get("/stats?bucket=60").json()
    assert stats["total_predictions"] == 3
    assert stats["accuracy"] == {"n": 3, "correct": 2, "accuracy": 2 / 3}
    assert sorted((pair["true_label"], pair["predicted_label"], pair["count"]) for pair in stats["confusion"]) == [
        ("blue", "blue", 1), ("red", "green", 1), ("red", "red", 1)]
    assert sorted(entry["label"] for entry in stats["label_distribution"]) == ["blue", "green", "red"]
    assert sum(entry["count"] for entry in stats["latency"]) == 3
    assert stats["system_resources"]["process_rss_bytes"] > 10_000_000
    assert 0 <= stats["system_resources"]["cpu_percent"] <= 100


def test_a_result_is_found_by_its_number(filled) -> None:
    client, ids = filled
    for record in client.get("/results").json()["results"]:
        assert ids_of(client.get("/results", params={"id": record["id"]})) == [record["request_id"]]
    assert ids_of(client.get("/results?id=&limit=1")) == ids[2:]  # a form left empty


@pytest.mark.parametrize("wrong", ["limit=0", "limit=1e1", "id=0", "status=lost", "from=noon", "to=noon", "cursor=x"])
def test_a_field_that_does_not_fit_is_refused_by_name(client, wrong) -> None:
    answers = [client.get(f"/results?{wrong}")]
    if not wrong.startswith("cursor"):
        answers.append(client.get(f"/results?{wrong}&request_id=x"))  # also where it plays no part
    for answer in answers:
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(wrong.partition("=")[0])


def test_a_pending_result_says_when_to_ask_again(open_door, jpeg) -> None:
    client = open_door()
    client.get("/results")  # answers when the database is open
    client.door.worker.stop()  # nobody takes it
    request_id = client.post("/upload-image", content=jpeg()).json()["request_id"]
    answer = client.get("/results", params={"request_id": request_id})
    assert answer.status_code == 200
    assert answer.json()["results"][0]["status"] == "pending"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("query", [
    "limit=0", "limit=101", "limit=abc", "cursor=nonsense", "status=lost", "from=yesterday",
    "to=2026-13-01", "request_id=x&limit=0"])
def test_a_bad_field_is_refused_by_name(client, query: str) -> None:
    answer = client.get(f"/results?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    name = query.rpartition("&")[2].partition("=")[0]
    assert answer.json()["detail"].startswith(f"{name}: ")
    assert "Correct it, or leave it out" in answer.json()["detail"]


@pytest.mark.parametrize("bucket", ["0", "-5", "x", "99999999999999999999"])
def test_a_bad_bucket_is_refused_by_name(client, bucket: str) -> None:
    assert client.get("/stats", params={"bucket": bucket}).json()["detail"].startswith("bucket: ")


@pytest.mark.parametrize("request_id", ["x", "%00", "..%2f..%2fetc%2fpasswd", "%ff", "é", "x" * 200])
def test_an_unknown_id_is_not_found(client, request_id: str) -> None:
    assert client.get(f"/results?request_id={request_id}").status_code == 404
    assert client.get(f"/results/{request_id}/image").status_code == 404
    assert client.delete(f"/results/{request_id}").status_code == 404
