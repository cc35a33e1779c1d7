import base64
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lambdas import query, upload
from lambdas.door import serve
from shutterless.uploads import FORM_S, NEVER_ARRIVED

pytestmark = pytest.mark.needs("postgres")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(settings_of, open_storage, rest_event, context):
    """`call("POST", "/upload-image", body, ...)` -> status, headers, body: through the handler."""
    settings = settings_of("upload")
    door = upload.open_door(settings, open_storage(settings))

    def call(*request, **options):
        answer = serve(rest_event(*request, **options), context, door)
        body = json.loads(answer["body"])
        assert answer["headers"]["x-request-id"] == body["request_id"]
        return answer["statusCode"], answer["headers"], body
    call.door = door
    return call


@pytest.fixture
def storage(settings_of, open_storage):
    """What infer sees."""
    return open_storage(settings_of("infer"))


@pytest.mark.parametrize(("content_type", "wrap"), [
    ("image/jpeg", lambda picture: picture),
    ("application/json", lambda picture: json.dumps({"image_base64": base64.b64encode(picture).decode(),
                                                     "extension": "jpg", "true_label": "red"}).encode()),
    ("multipart/form-data; boundary=xyz", lambda picture: b"\r\n".join([
        b"--xyz", b'Content-Disposition: form-data; name="true_label"', b"", b"red", b"--xyz",
        b'Content-Disposition: form-data; name="file"; filename="C:\\tiles\\a.jpg"', b"", picture, b"--xyz--", b""]))])
def test_a_picture_is_kept_with_its_row_and_its_checksum(call, storage, jpeg, bucket, boto_session, content_type, wrap):
    query_string = "" if "json" in content_type or "form" in content_type else "true_label=red"
    status, headers, receipt = call("POST", "/upload-image", wrap(jpeg()), content_type, query=query_string)
    request_id = receipt["request_id"]
    assert status == 202
    assert receipt == {"request_id": request_id, "bucket": bucket, "s3_key": f"uploads/classify/{request_id}.jpg",
                       "content_type": "image/jpeg", "status": "pending"}
    assert headers["location"] == f"/results?request_id={request_id}"
    record = storage.results.get(request_id)
    assert (record.status, record.task, record.true_label, record.object_key) == (
        "pending", "classify", "red", receipt["s3_key"])
    assert record.image_name == ("a.jpg" if "form" in content_type else None)
    client = boto_session.client("s3")
    stored = client.get_object(Bucket=bucket, Key=receipt["s3_key"], ChecksumMode="ENABLED")
    assert stored["Body"].read() == jpeg()
    assert stored["ContentType"] == "image/jpeg"
    assert stored["ChecksumSHA256"]
    client.close()


def test_the_type_that_is_kept_is_that_of_the_bytes(call, encode, draw):
    _, _, receipt = call("POST", "/upload-image", encode(draw(), "PNG"), "image/jpeg")
    assert receipt["content_type"] == "image/png"
    assert receipt["s3_key"].endswith(".png")


@pytest.mark.parametrize(("body", "content_type", "query_string", "status"), [
    (b"", "image/jpeg", "", 400), (b"<svg></svg>", "image/svg+xml", "", 415), (b"text", "text/plain", "", 415),
    (b"no picture", "image/jpeg", "", 400), (b"{", "application/json", "", 422),
    (None, "image/jpeg", "task=caption", 422), (None, "image/jpeg", "true_label=" + "x" * 201, 422)])
def test_what_is_no_upload_is_refused_and_leaves_nothing_behind(call, storage, jpeg, body, content_type, query_string, status):
    answered, headers, problem = call("POST", "/upload-image", jpeg() if body is None else body, content_type,
                                      query=query_string)
    assert answered == status
    assert headers["content-type"] == "application/problem+json"
    assert storage.results.get(problem["request_id"]) is None


def test_a_picture_that_is_too_large_for_a_request_is_shown_the_other_way(call):
    status, _, problem = call("POST", "/upload-image", b"\xff\xd8\xff" + bytes(4_500_000), "image/jpeg")
    assert status == 413
    assert "POST /uploads" in problem["detail"]


def test_a_picture_that_cannot_be_stored_is_refused_and_its_row_says_so(call, storage, s3, jpeg):
    s3.faults += ["503"] * 4
    status, headers, problem = call("POST", "/upload-image", jpeg(), "image/jpeg")
    assert status == 503
    assert headers["retry-after"]
    record = storage.results.get(problem["request_id"])
    assert (record.status, record.error["title"]) == ("failed", "Not stored")


def test_without_the_database_nothing_is_stored(settings_of, open_storage, rest_event, context, s3, jpeg):
    settings = settings_of("upload", database_url="postgresql://nobody@127.0.0.1:1/none")
    before = s3.requests
    answer = serve(rest_event("POST", "/upload-image", jpeg(), "image/jpeg"), context,
                   upload.open_door(settings, open_storage(settings)))
    assert answer["statusCode"] == 503
    assert "127.0.0.1" not in answer["body"]
    assert s3.requests == before


def test_settings_that_cannot_work_are_the_operator_s(settings_of, open_storage, rest_event, context, jpeg, lines):
    for wrong in ({"objects_url": "var/objects"}, {"objects_url": "s3://bucket/prefix"}, {"database_url": ""}):
        settings = settings_of("upload", **wrong)
        answer = serve(rest_event("POST", "/upload-image", jpeg(), "image/jpeg"), context,
                       upload.open_door(settings, open_storage(settings)))
        assert answer["statusCode"] == 500
        assert "SHUTTERLESS" not in answer["body"]
        assert any("expected" in line.get("error", "") for line in lines())


# --- Forms

@pytest.fixture
def ask_form(call, jpeg):
    def ask_form(**fields):
        asked = {"content_type": "image/jpeg", "size_bytes": len(jpeg())} | fields
        status, _, form = call("POST", "/uploads", json.dumps(asked).encode(), "application/json")
        assert status == 201, form
        return form
    return ask_form


def test_a_form_takes_the_picture_that_was_announced(ask_form, storage, jpeg, post):
    form = ask_form(true_label="red", task="classify")
    assert set(form) == {"request_id", "url", "fields", "expires_at", "max_bytes"}
    assert form["max_bytes"] == len(jpeg())
    left = datetime.fromisoformat(form["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=FORM_S - 60) < left <= timedelta(seconds=FORM_S)
    record = storage.results.get(form["request_id"])
    assert (record.status, record.true_label, record.content_type) == ("pending", "red", "image/jpeg")
    post(form, jpeg())
    stored = storage.objects.read(form["fields"]["key"])
    assert stored.body == jpeg()
    assert stored.by_form
    assert form["fields"]["key"] == record.object_key == f"uploads/classify/{form['request_id']}.jpg"


def test_a_form_s_policy_holds_bucket_key_type_size_and_time(ask_form, jpeg, bucket):
    form = ask_form()
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    assert ["content-length-range", len(jpeg()), len(jpeg())] in policy["conditions"]
    for held in ({"Content-Type": "image/jpeg"}, {"bucket": bucket}, {"key": form["fields"]["key"]},
                 {"x-amz-meta-by-form": "1"}):
        assert held in policy["conditions"]
    ends = datetime.fromisoformat(policy["expiration"])
    assert abs((ends - datetime.fromisoformat(form["expires_at"])).total_seconds()) < 5


def test_on_aws_forms_and_links_lead_to_the_bucket_in_its_region(monkeypatch):
    code = """
from shutterless.aws import S3Objects
objects = S3Objects("pictures")
print(objects.form("a.jpg", "image/jpeg", 3, 60)["url"], objects.link("a.jpg", "v1", 60))
"""
    environment = {"PYTHONPATH": str(ROOT), "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
                   "AWS_SESSION_TOKEN": "c", "AWS_EC2_METADATA_DISABLED": "true"}
    for region in ("eu-central-1", "us-east-1"):
        shown = subprocess.run([sys.executable, "-c", code], env=environment | {"AWS_DEFAULT_REGION": region},
                               capture_output=True, text=True, check=True).stdout.split()
        assert all(url.startswith(f"https://pictures.s3.{region}.amazonaws.com/") for url in shown)
        assert "versionId=v1" in shown[1]


@pytest.mark.parametrize(("fields", "status"), [
    ({"content_type": None}, 422), ({"content_type": 3}, 422), ({"content_type": "image/svg+xml"}, 415),
    ({"size_bytes": 0}, 422), ({"size_bytes": True}, 422), ({"size_bytes": "9"}, 422), ({"size_bytes": 1.5}, 422),
    ({"size_bytes": 20_000_001}, 413), ({"task": "caption"}, 422), ({"task": 3}, 422), ({"true_label": ["a"]}, 422),
    ({"true_label": "x" * 201}, 422)])
def test_an_announcement_that_does_not_fit_is_refused_by_name(call, storage, fields, status):
    asked = {"content_type": "image/jpeg", "size_bytes": 10} | fields
    answered, _, problem = call("POST", "/uploads", json.dumps(asked).encode(), "application/json")
    assert answered == status
    name = next(iter(fields))
    assert problem["detail"].startswith(f"{name}: ") or status == 413
    assert storage.results.get(problem["request_id"]) is None


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_an_announcement_that_is_no_json_object_is_refused(call, body):
    assert call("POST", "/uploads", body, "application/json")[0] == 422


# --- Pictures that never come

@pytest.fixture
def late(migrated_database):
    """`late(request_id)`: lets the time of a row run out."""
    import psycopg

    def late(request_id: str) -> None:
        with psycopg.connect(migrated_database, autocommit=True) as connection:
            connection.execute("UPDATE results SET claimed_until = now() - interval '1 s' WHERE request_id = %s", [request_id])
    return late


@pytest.fixture
def find(settings_of, open_storage, context):
    settings = settings_of("query")
    door = query.open_door(settings, open_storage(settings))

    def find(request_id: str) -> dict:
        event = {"httpMethod": "GET", "path": "/results", "queryStringParameters": {"request_id": request_id}}
        return json.loads(serve(event, context, door)["body"])["results"][0]
    return find


def test_a_picture_that_never_came_is_failed_when_its_time_is_over_and_not_before(ask_form, find, late):
    form = ask_form()
    assert find(form["request_id"])["status"] == "pending"
    late(form["request_id"])
    record = find(form["request_id"])
    assert (record["status"], record["error"]) == ("failed", NEVER_ARRIVED)
    assert record["finished_at"]


def test_a_picture_that_came_and_waits_is_not_given_up(ask_form, find, late, post, jpeg):
    form = ask_form()
    post(form, jpeg())
    late(form["request_id"])
    assert find(form["request_id"])["status"] == "pending"


def test_no_picture_is_given_up_where_query_looks_into_a_bucket_that_is_not_there(settings_of, open_storage, call, late, jpeg,
                                                                                storage, rest_event, context):
    _, _, receipt = call("POST", "/upload-image", jpeg(), "image/jpeg")
    late(receipt["request_id"])
    settings = settings_of("query", objects_url="s3://no-such-bucket-here")
    answer = serve(rest_event("GET", "/results"), context, query.open_door(settings, open_storage(settings)))
    assert answer["statusCode"] == 500
    assert storage.results.get(receipt["request_id"]).status == "pending"


def test_an_upload_that_was_killed_between_row_and_picture_is_failed_in_time(call, find, late, jpeg, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    storage = call.door.routes["POST", "/upload-image"].keywords["storage"]
    monkeypatch.setattr(type(storage.objects), "put", die)
    rows = []
    add = storage.results.add_pending
    monkeypatch.setattr(storage.results, "add_pending", lambda *row, **more: rows.append(row[0]) or add(*row, **more))
    with pytest.raises(Killed):
        call("POST", "/upload-image", jpeg(), "image/jpeg")
    late(rows[0])
    assert find(rows[0])["error"]["title"] == "never_arrived"


# --- The function as a module

@pytest.mark.parametrize("module", ["upload", "query", "migrate"])
def test_functions_without_a_model_need_no_library_for_pictures(module):
    code = f"import sys, lambdas.{module}; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                           check=True).stdout.split()
    assert f"lambdas.{module}" in shown
    assert set(shown) & {"numpy", "PIL", "onnxruntime", "boto3", "sqlalchemy", "psycopg", "alembic", "pydantic"} == set()
