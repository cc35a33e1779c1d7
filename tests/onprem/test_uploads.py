from collections.abc import Callable
from typing import Any

import httpx
import pytest

from shutterless.errors import Unavailable


def test_an_upload_is_answered_by_its_record(client: httpx.Client, jpeg: Callable[..., bytes], settle: Any) -> None:
    receipt = client.post("/upload-image", files={"file": ("tile.jpg", jpeg("green"))}, data={"true_label": "green"})
    assert receipt.status_code == 202
    said = receipt.json()
    assert said["s3_key"] == f"uploads/classify/{said['request_id']}.jpg"
    assert said["status"] == "pending"
    assert said["request_id"] == receipt.headers["x-request-id"]
    record = settle(client, said["request_id"])
    assert record["status"] == "done"
    assert record["predicted_label"] == record["true_label"] == "green"
    assert record["image_name"] == "tile.jpg"
    assert record["latency_ms"] >= record["queue_ms"] >= 0
    assert client.get(receipt.headers["location"]).json()["results"] == [record]


def test_both_ways_give_exactly_the_same_answer(client, draw, encode, settle) -> None:
    for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")):
        picture = encode(draw((130, 71), seed), kind)
        at_once = client.post("/predict", content=picture).json()
        record = settle(client, client.post("/upload-image", content=picture).json()["request_id"])
        assert record["predicted_label"] == at_once["label"]
        for field in ("confidence", "top", "in_distribution", "model"):
            assert record[field] == at_once[field]


def test_the_extension_is_the_pictures_own_whatever_the_client_says(client, draw, encode) -> None:
    said = client.post("/upload-image", files={"file": ("x.exe", encode(draw(), "PNG"), "text/html")}).json()
    assert said["content_type"] == "image/png"
    assert said["s3_key"].endswith(".png")


def test_a_picture_that_breaks_while_decoding_is_recorded_as_failed_with_a_sentence(client, jpeg, settle) -> None:
    receipt = client.post("/upload-image", content=jpeg()[:300])
    assert receipt.status_code == 202  # its first bytes look right, and no more is read before the 202
    record = settle(client, receipt.json()["request_id"])
    assert record["status"] == "failed"
    assert record["error"]["title"] == "Not a readable picture"
    assert record["error"]["detail"].endswith(".")
    assert record["predicted_label"] is None


@pytest.mark.parametrize("name", ["ünï — код 図.jpg", 'a"b.jpg', "../../etc/passwd", "a\r\nx-evil: 1.jpg", "x" * 1000])
def test_no_filename_does_harm(client, jpeg, settle, name: str) -> None:
    receipt = client.post("/upload-image", files={"file": (name, jpeg())})
    assert receipt.status_code == 202
    assert "x-evil" not in receipt.headers
    record = settle(client, receipt.json()["request_id"])
    assert record["status"] == "done"
    assert "/" not in record["image_name"]
    assert "\n" not in record["image_name"]
    image = client.get(f"/results/{record['request_id']}/image")
    assert "x-evil" not in image.headers
    assert image.content == jpeg()


def test_a_raw_header_in_a_filename_stays_a_filename(client, jpeg) -> None:
    body = (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\rb\nX-Evil: 1"\r\n\r\n' + jpeg()
            + b"\r\n--b--\r\n")
    answer = client.post("/upload-image", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code in (202, 422)
    assert "x-evil" not in answer.headers


def test_fields_may_stand_in_the_query_or_in_the_form_and_the_query_wins(client, jpeg, settle) -> None:
    receipt = client.post("/upload-image?true_label=blue", files={"file": jpeg()}, data={"true_label": "red"})
    assert settle(client, receipt.json()["request_id"])["true_label"] == "blue"


def test_a_label_too_long_for_an_index_is_refused_and_its_picture_is_not_kept(open_door, jpeg, tmp_path) -> None:
    client = open_door()
    answer = client.post("/upload-image", files={"file": jpeg()}, data={"true_label": "x" * 8_000})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("true_label: expected at most 200 characters")
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("task", ["caption", "../etc", " ", "x" * 3000])
def test_an_unknown_task_is_refused_by_name(client, jpeg, task: str) -> None:
    answer = client.post("/upload-image", params={"task": task}, files={"file": jpeg()})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("task: expected classify")


def test_an_upload_is_answered_by_the_model_it_asks_for(open_door, jpeg, make_bundle, settle, tmp_path) -> None:
    make_bundle(tmp_path / "models")
    make_bundle(tmp_path / "models", name="other")
    client = open_door(models_dir=tmp_path / "models")
    for model, name in (("colours/1", "colours"), ("other", "other")):
        receipt = client.post("/upload-image", params={"model": model}, content=jpeg())
        assert settle(client, receipt.json()["request_id"])["model"]["name"] == name
    assert client.post("/upload-image?model=nope", content=jpeg()).status_code == 404


def test_an_upload_that_is_refused_leaves_nothing_behind(open_door, tmp_path) -> None:
    client = open_door()
    assert client.post("/upload-image", content=b"no picture").status_code == 400
    assert client.get("/results").json()["count"] == 0
    assert [path for path in (tmp_path / "var" / "objects").rglob("*") if path.is_file()] == []


def test_uploads_are_answered_503_while_the_database_is_out_of_reach(open_door, jpeg, monkeypatch) -> None:
    monkeypatch.setattr("onprem.storage.PATIENCE_S", 0.1)
    client = open_door(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert client.post("/predict", content=jpeg()).status_code == 200
    answer = client.post("/upload-image", content=jpeg())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert client.get("/results").status_code == 503
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["ready"] is False
    assert health.json()["checks"] == {"model": "ok", "storage": "opening"}
    assert client.get("/health/live").json() == {"status": "ok"}
    unready = client.get("/health/ready")
    assert (unready.status_code, unready.headers["retry-after"]) == (503, "1")
    assert "storage" in unready.json()["detail"]


def test_an_upload_that_waits_is_answered_when_picture_and_row_are_kept(open_door, jpeg, database_url) -> None:
    client = open_door(database_url=database_url)
    answer = client.post("/upload", files={"file": ("tile.jpg", jpeg("green"))}, data={"true_label": "red"})
    assert answer.status_code == 200
    said = answer.json()
    assert (said["filename"], said["predicted_label"], said["true_label"]) == ("tile.jpg", "green", "red")
    assert said["request_id"] == answer.headers["x-request-id"]
    assert said["latency_ms"] >= said["inference_ms"] > 0
    assert said["resources"]["process_rss_bytes"] > 10_000_000
    record = client.get("/results", params={"id": said["prediction_id"]}).json()["results"][0]
    assert record == client.get(answer.headers["location"]).json()["results"][0]
    assert (record["status"], record["confidence"], record["id"]) == ("done", said["confidence"], said["prediction_id"])
    assert client.get(f"/results/{said['request_id']}/image").content == jpeg("green")
    at_once = client.post("/predict", content=jpeg("green")).json()
    assert (at_once["confidence"], at_once["top"]) == (record["confidence"], record["top"])
    assert client.get("/results?id=999999").status_code == 404
    for wrong in ("0", "x", "-1", "9" * 30):
        assert client.get("/results", params={"id": wrong}).json()["detail"].startswith("id: ")


@pytest.mark.parametrize(("picture", "status"), [(b"no picture", 400), (b"", 400), ("cut", 400), (b"%PDF-1.4", 415)])
def test_an_upload_that_waits_keeps_nothing_of_what_is_no_picture(open_door, jpeg, tmp_path, picture, status: int) -> None:
    client = open_door()
    picture = jpeg()[:300] if picture == "cut" else picture
    assert client.post("/upload", files={"file": ("a.jpg", picture)}).status_code == status
    assert client.get("/results").json()["count"] == 0
    assert [path for path in (tmp_path / "var" / "objects").rglob("*") if path.is_file()] == []


def test_no_upload_is_answered_whose_row_is_not_kept(open_door, jpeg, monkeypatch, tmp_path) -> None:
    client = open_door()
    client.get("/results")  # answers when the database is open

    def away(*_: object) -> int:
        raise Unavailable("The database does not answer. Try again in a moment.")

    monkeypatch.setattr(client.door.storage.results, "add_settled", away)
    answer = client.post("/upload", content=jpeg())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    batch = client.post("/upload_batch", files=[("files", ("a.jpg", jpeg()))])
    assert batch.json() == {"results": [], "failed": [{"filename": "a.jpg", "error": answer.json()["detail"]}]}
    assert not list(tmp_path.rglob("*.jpg"))


def test_pictures_in_s3_are_kept_by_every_way(open_door, jpeg, bucket, settle) -> None:
    client = open_door(objects_url=f"s3://{bucket}/here")
    at_once = client.post("/upload", content=jpeg("blue")).json()
    several = client.post("/upload_batch", files=[("files", ("a.jpg", jpeg("red"))), ("files", ("b.jpg", jpeg("green")))]).json()
    form = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": len(jpeg("red"))}).json()
    assert client.post(form["url"], data=form["fields"], files={"file": jpeg("red")}).status_code == 204
    assert settle(client, form["request_id"])["predicted_label"] == "red"
    for said in (at_once, *several["results"]):
        assert client.get(f"/results/{said['request_id']}/image").content == jpeg(said["predicted_label"])
