import base64
import json
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambdas.events import MAX_EVENT_BYTES, ForeignEvent, Request, new_request_id, read_request
from lambdas.intake import read_picture
from shutterless.errors import BadRequest, ShutterlessError, TooLarge

PICTURE = b"\xff\xd8\xff" + bytes(range(256)) * 4
ENCODED = base64.b64encode(PICTURE).decode()


def read(event, context=None) -> Request:
    return read_request(event, context, bare_path="/predict", request_id="id")


def test_every_request_id_is_another_uuid_4():
    made = {new_request_id() for _ in range(200)}
    assert len(made) == 200
    assert all(str(uuid.UUID(text)) == text for text in made)
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(4, uuid.RFC_4122)}


# Over HTTP, in each shape

def test_a_request_says_the_same_in_every_shape(make_event, context):
    event = make_event("POST", "/predict", PICTURE, "image/jpeg", query="top=3&model=a%2F1", headers={"X-Api-Key": "k"})
    request = read(event, context)
    assert (request.method, request.path, request.body) == ("POST", "/predict", PICTURE)
    assert request.query == {"top": "3", "model": "a/1"}
    assert request.headers["content-type"] == "image/jpeg"
    assert request.headers["x-api-key"] == "k"
    assert (request.request_id, request.aws_request_id, request.time_left_ms) == ("id", "8a1d9a0e-aws", 12_345)


def test_of_several_values_of_a_query_field_the_last_one_counts(make_event):
    event = make_event("GET", "/results", query="label=a,b&label=c&from=2026-01-01T00%3A00%3A00%2B01%3A00&cursor=")
    assert read(event).query == {"label": "c", "from": "2026-01-01T00:00:00+01:00", "cursor": ""}


def test_an_event_without_body_headers_or_query_is_an_empty_request(make_event):
    event = make_event("GET", "/health") | dict.fromkeys(("headers", "multiValueHeaders", "body", "queryStringParameters"))
    request = read(event)
    assert (request.body, request.headers, request.query) == (b"", {}, {})


def test_text_and_json_arrive_as_they_were_sent(make_event):
    body = json.dumps({"image_base64": ENCODED, "true_label": "Wälder"}, ensure_ascii=False).encode()
    assert read(make_event("POST", "/predict", body, "application/json")).body == body


@pytest.mark.parametrize(("path", "template"), [("/shop/results/1/image", "/results/{request_id}/image"),
                                                ("/predict", "/predict"), ("/v1/x/predict", "/predict")])
def test_the_base_path_of_a_custom_domain_is_not_a_part_of_the_route(path, template):
    wanted = path.removeprefix("/shop").removeprefix("/v1/x")
    assert read({"httpMethod": "GET", "path": path, "resource": template}).path == wanted
    assert read({"rawPath": path, "routeKey": f"GET {template}", "requestContext": {"http": {"method": "GET"}}}).path == wanted


def test_headers_that_came_with_many_values_only_are_read():
    event = {"httpMethod": "GET", "path": "/", "headers": None, "multiValueHeaders": {"X-Api-Key": ["a", "b"]}}
    assert read(event).headers == {"x-api-key": "b"}


# isBase64Encoded lies

def test_a_picture_in_base64_is_recognised_where_the_event_does_not_say_so(make_event):
    event = make_event("POST", "/predict", PICTURE, "image/jpeg") | {"isBase64Encoded": False}
    assert read(event).body == PICTURE


@pytest.mark.parametrize("body", ["{}", "not base64 !", "====", "é"])
def test_a_body_that_is_called_base64_and_is_not_is_refused(make_event, body):
    event = make_event("POST", "/predict", PICTURE, "image/jpeg") | {"isBase64Encoded": True, "body": body}
    with pytest.raises(BadRequest, match="isBase64Encoded"):
        read(event)


def test_more_bytes_than_lambda_takes_are_refused(make_event):
    event = make_event("POST", "/predict", PICTURE, "image/jpeg") | {"body": "A" * (MAX_EVENT_BYTES + 1)}
    with pytest.raises(TooLarge, match="POST /uploads"):
        read(event)


def test_a_picture_that_is_larger_than_a_request_can_carry_is_sent_another_way(make_event):
    request = read(make_event("POST", "/predict", PICTURE + bytes(4_600_000), "image/jpeg") | {})
    with pytest.raises(TooLarge, match="POST /uploads"):
        read_picture(request, 20_000_000)
    with pytest.raises(TooLarge, match="1,000 bytes"):
        read_picture(request, 1_000)


# By hand

@pytest.mark.parametrize("event", [
    {"image_b64": ENCODED}, {"image_base64": ENCODED},
    {"body": json.dumps({"image_b64": ENCODED})}, {"body": {"image_b64": ENCODED}},
    {"body": ENCODED, "isBase64Encoded": True}, {"body": ENCODED}, {"body": ENCODED, "headers": {"Content-Type": "image/jpeg"}},
    {"body": "data:image/jpeg;base64," + ENCODED, "isBase64Encoded": True},
    {"body": base64.encodebytes(PICTURE).decode()}])
def test_a_bare_event_is_a_post_of_its_picture(event):
    request = read(event)
    assert (request.method, request.path, request.is_bare) == ("POST", "/predict", True)
    assert read_picture(request, 10_000).picture == PICTURE


def test_fields_of_a_bare_event_are_its_query():
    assert read({"image_b64": ENCODED, "top": 3, "model": "a"}).query == {"top": "3", "model": "a"}
    assert read({"body": ENCODED, "queryStringParameters": {"top": "3"}}).query == {"top": "3"}


# What is no request

@pytest.mark.parametrize("event", [None, [], "text", 1, True, {}, {"a": 1}, {"body": 5}, {"httpMethod": 7},
                                   {"requestContext": "x"}, {"requestContext": {"http": "x"}}, {"key1": "value1", "k2": ""}])
def test_what_is_no_request_is_told_what_is_one(event):
    with pytest.raises(BadRequest, match=r"[Ee]xpected .* got .*\. Send"):
        read(event)


@pytest.mark.parametrize("event", [
    {"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}, {"Records": [{"eventSource": "aws:s3", "s3": {}}]},
    {"Records": [{"EventSource": "aws:sns"}]}, {"Records": []}, {"Records": [None]}, {"Event": "s3:TestEvent", "Bucket": "b"},
    {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}, {"StackId": "x", "RequestType": "Create"}])
def test_an_event_that_an_answer_would_acknowledge_is_told_apart(event):
    with pytest.raises(ForeignEvent, match="another function"):
        read(event)


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
                        max_leaves=8)
names = ("body", "isBase64Encoded", "headers", "multiValueHeaders", "queryStringParameters", "path", "rawPath",
         "rawQueryString", "routeKey", "resource", "image_b64")
contexts = st.fixed_dictionaries({}, optional={
    "http": st.fixed_dictionaries({}, optional={"method": anything}), "stage": anything})


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(names, anything) | {
    "httpMethod": st.sampled_from(["GET", "POST", "é"]), "requestContext": contexts | anything}))
def test_whatever_comes_is_a_request_or_one_of_our_errors(event):
    try:
        request = read(event)
    except ShutterlessError:
        return
    assert isinstance(request.body, bytes)
    texts = (request.method, request.path, *request.headers.values(), *request.query.values())
    assert all(isinstance(text, str) for text in texts)
