import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shutterless.errors import Unavailable
from shutterless.results import Arrival


def scrape(client: httpx.Client) -> dict[tuple, float]:
    """(sample's name, sorted labels) -> value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {(sample.name, *sorted(sample.labels.items())): sample.value
            for family in parse_text(answer.text) for sample in family.samples}


def value(samples: dict[tuple, float], name: str, **labels: str) -> float:
    return samples[(f"shutterless_{name}", *sorted(labels.items()))]


@pytest.fixture
def client(open_door) -> httpx.Client:
    """A server of one's own, whose database is open: other counts begin at 0."""
    client: httpx.Client = open_door()
    client.get("/stats")
    return client


def test_requests_are_counted_by_route_method_and_code(client, jpeg) -> None:
    for _ in range(3):
        client.post("/predict", content=jpeg())
    client.post("/predict", content=b"not a picture")
    client.head("/health")
    client.get("/results/one/image")
    client.get("/results/two/image")
    client.get("/predict")
    for path in ("/nope", "/nope2"):
        client.request("PROPFIND", path)
    samples = scrape(client)
    for count, route, method, code in ((3, "/predict", "POST", "200"), (1, "/predict", "POST", "400"),
                                       (1, "/health", "GET", "200"), (2, "/results/{request_id}/image", "GET", "404"),
                                       (1, "/predict", "GET", "405"), (2, "none", "other", "404")):
        assert value(samples, "http_requests_total", route=route, method=method, code=code) == count
    assert value(samples, "http_request_duration_seconds_count", route="/predict", method="POST") == 4
    assert value(samples, "http_request_duration_seconds_bucket", route="/predict", method="POST", le="+Inf") == 4
    assert 0 < value(samples, "http_request_duration_seconds_sum", route="/predict", method="POST") < 60
    assert value(samples, "http_requests_in_flight") == 1


def test_predictions_are_counted_by_label_with_their_confidence_and_times(client, jpeg) -> None:
    for colour, count in (("red", 3), ("blue", 2)):
        for _ in range(count):
            client.post("/predict", content=jpeg(colour))
    samples, model = scrape(client), {"model": "colours", "version": "1"}
    assert value(samples, "predictions_total", label="red", **model) == 3
    assert value(samples, "predictions_total", label="blue", **model) == 2
    assert value(samples, "prediction_confidence_ratio_count", **model) == 5
    assert value(samples, "prediction_confidence_ratio_bucket", le="0.4", **model) == 0
    assert value(samples, "decode_duration_seconds_count") == 5
    assert value(samples, "inference_batch_size_sum") == 5
    assert value(samples, "inference_duration_seconds_count") == value(samples, "inference_batch_size_count") > 0
    info = {"sha256": client.door.shelf.default.bundle.sha256, **model}
    assert value(samples, "model_info", **info) == 1


@pytest.mark.parametrize(("reason", "status", "request_of"), [
    ("bad_picture", 400, {"content": b"x"}), ("bad_request", 422, {"params": {"top": "0"}, "content": b"x"}),
    ("not_found", 404, {"params": {"model": "nope"}, "content": b"x"}),
    ("unsupported_picture", 415, {"content": b"x", "headers": {"content-type": "text/plain"}})])
def test_a_refusal_is_counted_by_its_reason(client, reason: str, status: int, request_of: dict) -> None:
    assert client.post("/predict", **request_of).status_code == status
    assert value(scrape(client), "failures_total", way="request", reason=reason) == 1


def test_the_two_reasons_for_503_are_told_apart(client, jpeg, monkeypatch) -> None:
    def gone(**_: object) -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(client.door.intake, "max_requests", 0)
    assert client.post("/predict", content=jpeg()).status_code == 503
    monkeypatch.setattr(client.door.storage.results, "page", gone)
    assert client.get("/results").status_code == 503
    samples = scrape(client)
    assert value(samples, "failures_total", way="request", reason="overloaded") == 1
    assert value(samples, "failures_total", way="request", reason="unavailable") == 1


def test_uploads_are_counted_from_arrival_to_outcome(client, jpeg, settle) -> None:
    answers = [client.post("/upload-image", content=content) for content in (jpeg("red"), jpeg("blue"), jpeg()[:300])]
    for answer in answers:
        settle(client, answer.json()["request_id"])
    await_value(client, 3, "upload_duration_seconds_count")
    samples = scrape(client)
    assert [value(samples, "uploads_total", state=state) for state in ("accepted", "done", "failed", "stalled")] == [3, 2, 1, 0]
    assert value(samples, "failures_total", way="upload", reason="bad_picture") == 1
    assert value(samples, "queue_uploads", state="pending") == 0
    assert value(samples, "queue_oldest_age_seconds") == 0


def await_value(client: httpx.Client, wanted: float, name: str) -> None:
    """The row is settled before it is counted."""
    for _ in range(500):
        if value(scrape(client), name) == wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"{name} is not {wanted}")


def test_the_queue_shows_what_waits_and_for_how_long(client) -> None:
    door = client.door
    door.worker.stop()
    door.storage.results.add_pending("waits", Arrival())
    door.storage.results.add_pending("waits too", Arrival())
    door.storage.results.add_pending("is expected", Arrival(), expected_s=60)
    door.storage.results.add_pending("is stuck", Arrival())
    door.storage.results.stall("is stuck", {"title": "t", "detail": "d"})
    time.sleep(0.05)
    samples = scrape(client)
    assert value(samples, "queue_uploads", state="pending") == 2
    assert value(samples, "queue_uploads", state="stalled") == 1
    assert 0.05 <= value(samples, "queue_oldest_age_seconds") < 60


def test_a_database_that_is_gone_is_told_and_hides_nothing_else(client, jpeg, monkeypatch) -> None:
    client.post("/predict", content=jpeg())
    assert value(scrape(client), "storage_up") == 1

    def gone() -> None:
        raise Unavailable("gone")

    monkeypatch.setattr(client.door.storage.results, "ping", gone)
    samples = scrape(client)
    assert value(samples, "storage_up") == 0
    assert value(samples, "predictions_total", model="colours", version="1", label="red") == 1
    assert not [sample for sample in samples if "queue" in sample[0]], "an old depth would be a lie"


def test_a_database_that_hangs_delays_a_scrape_by_seconds_at_most(client, monkeypatch) -> None:
    freed = threading.Event()
    monkeypatch.setattr("onprem.metrics.DATABASE_S", 0.05)
    monkeypatch.setattr(client.door.storage.results, "ping", lambda: freed.wait(60))
    try:
        assert value(scrape(client), "storage_up") == 0
    finally:
        freed.set()


def test_the_format_is_what_was_asked_for(client) -> None:
    plain = client.get("/metrics", headers={"accept": "text/plain;version=0.0.4"})
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    opened = client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert opened.text.endswith("# EOF\n")
    names = {family.name for family in parse_text(plain.text)}
    assert {family.name + "_info" * (family.type == "info") for family in parse_openmetrics(opened.text)} == names
    assert client.get("/metrics", headers={"accept": "application/openmetrics-text; version=x;;="}).status_code == 200


def test_its_own_key_opens_the_metrics_and_nothing_else(open_door) -> None:
    client = open_door(api_keys=("api-key",), metrics_key="scraper")
    as_scraper = {"authorization": "Bearer scraper"}
    assert client.get("/metrics").status_code == 403
    assert client.get("/metrics", headers={"authorization": "Bearer scrape"}).status_code == 403
    assert client.get("/metrics", headers={"authorization": "Bearer api-key"}).status_code == 403
    assert client.get("/metrics", headers={"x-api-key": "scraper"}).status_code == 403
    assert client.get("/metrics", headers=as_scraper).status_code == 200
    assert client.get("/metrics", headers={"x-api-key": "api-key"}).status_code == 200
    for path in ("/results", "/models", "/metrics/"):
        assert client.get(path, headers=as_scraper).status_code == 403
    client.get("/nope")
    text = client.get("/metrics", headers=as_scraper).text
    assert 'shutterless_http_requests_total{code="403",method="GET",route="/models"} 1.0' in text
    assert 'shutterless_http_requests_total{code="403",method="GET",route="none"} 2.0' in text
    assert 'shutterless_failures_total{reason="forbidden",way="request"} 8.0' in text
    assert "scraper" not in text
    assert "api-key" not in text


def test_without_a_key_of_its_own_an_api_key_is_needed(open_door) -> None:
    client = open_door(api_keys=("api-key",))
    assert client.get("/metrics", headers={"authorization": "Bearer None"}).status_code == 403
    assert client.get("/metrics", headers={"x-api-key": "api-key"}).status_code == 200


def test_counts_of_many_clients_add_up_while_it_is_scraped(client, jpeg) -> None:
    def ask(n: int) -> None:
        client.post("/predict", content=jpeg(("red", "green", "blue")[n % 3]))
        client.get("/metrics")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(120)))
    samples = scrape(client)
    assert value(samples, "http_requests_total", route="/predict", method="POST", code="200") == 120
    assert value(samples, "http_requests_in_flight") == 1
    for label in ("red", "green", "blue"):
        assert value(samples, "predictions_total", model="colours", version="1", label=label) == 40


@pytest.mark.needs("prometheus")
def test_promtool_finds_nothing_to_correct(client, jpeg) -> None:
    client.post("/predict", content=jpeg())
    client.post("/upload-image", content=jpeg())
    done = subprocess.run(["promtool", "check", "metrics"], input=client.get("/metrics").text, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
