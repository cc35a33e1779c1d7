import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from lambdas import query
from lambdas.door import serve
from shutterless.results import RECORD_FIELDS, Arrival, Outcome, open_results

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture
def own_database(new_database_with_roles):
    """One that no other test writes into."""
    return new_database_with_roles()


@pytest.fixture
def call(settings_of, open_storage, rest_event, context, own_database):
    """`call("GET", "/results?limit=2")` -> status, headers, body; the database is `own_database`, as the role of query."""
    settings = settings_of("query", database_url=own_database.replace("//postgres:@", "//shutterless_query:@"))
    door = query.open_door(settings, open_storage(settings))

    def call(method: str, where: str):
        path, _, query_string = where.partition("?")
        answer = serve(rest_event(method, path, query=query_string), context, door)
        return answer["statusCode"], answer["headers"], json.loads(answer["body"] or "null")
    return call


@pytest.fixture
def owner(own_database):
    opened = open_results(own_database)
    yield opened
    opened.close()


@pytest.fixture
def filled(owner, container, jpeg) -> list[str]:
    """Three results, oldest first: red, green, blue; their pictures are in the bucket."""
    ids = [str(uuid.uuid4()) for _ in range(3)]
    model = {"name": "colours", "version": "1", "sha256": "ab" * 32}
    for request_id, label, truth in zip(ids, ("red", "green", "blue"), ("red", "red", "blue"), strict=True):
        key = f"uploads/classify/{request_id}.jpg"
        version = container.storage.objects.put(key, jpeg(label), "image/jpeg")
        owner.finish(request_id, Outcome(predicted_label=label, confidence=0.9, model=model, latency_ms=20.0),
                     arrival=Arrival(object_key=key, object_version=version, content_type="image/jpeg", true_label=truth))
    return ids


def ids_of(answer) -> list[str]:
    status, _, body = answer
    assert status == 200, body
    assert body["count"] == len(body["results"])
    return [record["request_id"] for record in body["results"]]


def test_results_are_found_by_id_by_page_and_by_filter(call, filled):
    assert ids_of(call("GET", f"/results?request_id={filled[1]}")) == [filled[1]]
    assert ids_of(call("GET", "/results")) == filled[::-1]
    _, _, first = call("GET", "/results?limit=2")
    assert [record["request_id"] for record in first["results"]] == filled[:0:-1]
    assert ids_of(call("GET", f"/results?limit=2&cursor={first['next_cursor']}")) == filled[:1]
    assert ids_of(call("GET", "/results?label=green")) == [filled[1]]
    assert ids_of(call("GET", "/results?status=failed")) == []
    assert ids_of(call("GET", "/results?request_id=&label=&status=&cursor=&from=&to=")) == filled[::-1]
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert ids_of(call("GET", f"/results?from={soon}")) == []
    assert ids_of(call("GET", f"/results?to={soon}")) == filled[::-1]


def test_a_record_has_the_fields_of_the_contract_and_no_address(call, filled):
    _, _, body = call("GET", f"/results?request_id={filled[0]}")
    assert list(body["results"][0]) == list(RECORD_FIELDS)
    assert body["results"][0]["true_label"] == "red"


def test_a_pending_result_says_when_to_ask_again(call, owner):
    owner.add_pending("waits", Arrival(object_key="uploads/classify/waits.jpg"), expected_s=60)
    status, headers, body = call("GET", "/results?request_id=waits")
    assert (status, headers["retry-after"], body["results"][0]["status"]) == (200, "1", "pending")


@pytest.mark.parametrize("where", [
    "/results?limit=0", "/results?limit=101", "/results?limit=abc", "/results?limit=-1", "/results?cursor=nonsense",
    "/results?status=lost", "/results?from=yesterday", "/results?to=2026-13-01", "/results?request_id=x&limit=0",
    "/stats?bucket=0", "/stats?bucket=x", "/stats?bucket=99999999999999999999"])
def test_a_bad_field_is_refused_by_name(call, where):
    status, headers, problem = call("GET", where)
    assert status == 422
    assert headers["content-type"] == "application/problem+json"
    name = re.split("[?&]", where)[-1].partition("=")[0]
    assert problem["detail"].startswith(f"{name}: ")


@pytest.mark.parametrize("request_id", ["x", "%00", "..%2f..%2fetc%2fpasswd", "é", "x" * 200])
def test_an_unknown_id_is_not_found(call, request_id):
    for method, where in (("GET", f"/results?request_id={request_id}"), ("GET", f"/results/{request_id}/image"),
                          ("DELETE", f"/results/{request_id}")):
        status, headers, problem = call(method, where)
        assert (status, headers["content-type"], problem["status"]) == (404, "application/problem+json", 404)


def test_the_picture_is_a_redirect_to_s3_that_works_for_a_while(call, filled, jpeg):
    status, headers, _ = call("GET", f"/results/{filled[2]}/image")
    assert status == 302
    assert headers["cache-control"] == "private, no-store"
    answer = httpx.get(headers["location"])
    assert answer.content == jpeg("blue")
    assert answer.headers["content-type"] == "image/jpeg"
    signed = parse_qs(urlsplit(headers["location"]).query)
    assert signed["X-Amz-Expires"] == ["300"]
    assert signed["versionId"]


def test_what_is_no_picture_is_offered_as_a_file_and_never_shown(call, owner, container):
    key = "uploads/classify/page.html"
    version = container.storage.objects.put(key, b"<script>alert(1)</script>", "text/html")
    owner.finish("page", Outcome(error={"title": "Not a readable picture", "detail": "Send one."}),
                 arrival=Arrival(object_key=key, object_version=version))
    _, headers, _ = call("GET", "/results/page/image")
    answer = httpx.get(headers["location"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


def test_a_picture_that_is_gone_is_not_found(call, filled, container):
    container.storage.objects.delete(f"uploads/classify/{filled[0]}.jpg")
    status, _, _ = call("GET", f"/results/{filled[0]}/image")
    assert status == 302  # the version that was answered is still there, for a day
    key, version = f"uploads/classify/{filled[1]}.jpg", call("GET", f"/results/{filled[1]}/image")[1]["location"]
    container.storage.objects._s3.delete_object(
        Bucket=container.storage.bucket, Key=key, VersionId=parse_qs(urlsplit(version).query)["versionId"][0])
    assert call("GET", f"/results/{filled[1]}/image")[0] == 404


def test_a_deleted_result_is_gone_with_its_picture(call, filled, container):
    status, _, body = call("DELETE", f"/results/{filled[0]}")
    assert (status, body) == (204, None)
    for method, where in (("GET", f"/results/{filled[0]}/image"), ("DELETE", f"/results/{filled[0]}"),
                          ("GET", f"/results?request_id={filled[0]}")):
        assert call(method, where)[0] == 404
    assert ids_of(call("GET", "/results")) == filled[:0:-1]
    assert not container.storage.objects.has(f"uploads/classify/{filled[0]}.jpg")


def test_stats_have_the_fields_of_the_on_prem_door(call, filled):
    status, _, stats = call("GET", "/stats?bucket=60")
    assert status == 200
    assert set(stats) == {"total_predictions", "label_distribution", "by_status", "latency", "accuracy", "confusion",
                          "system_resources"}
    assert stats["total_predictions"] == 3
    assert stats["accuracy"] == {"n": 3, "correct": 2, "accuracy": 2 / 3}
    assert sum(pair["count"] for pair in stats["confusion"]) == 3
    assert set(stats["system_resources"]) == {"cpu_percent", "process_rss_bytes", "load_1m"}
    assert stats["system_resources"]["process_rss_bytes"] > 10_000_000
    assert 0 <= stats["system_resources"]["cpu_percent"] <= 100


def test_pages_and_stats_know_of_pictures_that_never_came(call, owner):
    for number in range(25):
        owner.add_pending(f"late{number}", Arrival(object_key=f"uploads/classify/{uuid.uuid4()}.jpg"), expected_s=-1)
    owner.add_pending("soon", Arrival(object_key="uploads/classify/soon.jpg"), expected_s=60)
    assert call("GET", "/stats")[2]["by_status"] == {"pending": 1, "done": 0, "failed": 25, "stalled": 0}
    assert ids_of(call("GET", "/results?status=pending")) == ["soon"]


def test_a_store_that_does_not_say_whether_a_late_picture_came_fails_no_question(call, owner, s3):
    for number in range(3):
        owner.add_pending(f"late{number}", Arrival(object_key=f"uploads/classify/{uuid.uuid4()}.jpg"), expected_s=-1)
    s3.faults.extend(["503"] * 9)
    assert len(ids_of(call("GET", "/results?status=pending"))) == 3
    assert s3.faults  # it asked about one of them, and then no more
    s3.faults.clear()
    assert call("GET", "/stats")[2]["by_status"]["pending"] == 3
    with owner._engine.connect() as connection:
        connection.exec_driver_sql("UPDATE results SET claimed_until = now() - interval '1 s'")
    assert call("GET", "/stats")[2]["by_status"] == {"pending": 0, "done": 0, "failed": 3, "stalled": 0}


def test_a_database_that_is_away_is_worth_another_try(settings_of, open_storage, rest_event, context):
    settings = settings_of("query", database_url="postgresql://nobody@127.0.0.1:1/none")
    door = query.open_door(settings, open_storage(settings))
    for where in ("/results", "/stats", "/results/x/image"):
        answer = serve(rest_event("GET", where), context, door)
        assert (answer["statusCode"], answer["headers"]["retry-after"]) == (503, "1")
        assert "127.0.0.1" not in answer["body"]
