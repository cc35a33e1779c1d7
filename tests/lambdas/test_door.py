import base64
import json
import uuid

import pytest

from lambdas.answers import Answer
from lambdas.door import Door, serve
from lambdas.events import ForeignEvent
from shutterless.errors import BadBundle, BadRequest, Overloaded
from shutterless.settings import Settings


def show(request):
    return Answer(body={"id": request.parameters.get("request_id"), "method": request.method, "body": request.body.decode()})


def fail(error):
    def route(request):
        raise error
    return route


def open_door(**settings) -> Door:
    return Door(function="show", bare_path="/items", settings=Settings(**settings), routes={
        ("GET", "/items/{request_id}"): show, ("DELETE", "/items/{request_id}"): show, ("GET", "/items/newest"): show,
        ("POST", "/items"): show, ("GET", "/health"): show, ("GET", "/bytes"): lambda request: Answer(
            body=b"\xff\x00", headers={"content-type": "image/jpeg"}),
        ("GET", "/nan"): lambda request: Answer(body={"value": float("nan")}),
        ("GET", "/half"): lambda request: Answer(body={"value": "\ud800 é"}),
        ("GET", "/busy"): fail(Overloaded("Full. Come back.")), ("GET", "/bundle"): fail(BadBundle("model.onnx differs")),
        ("GET", "/bad"): fail(BadRequest("top: expected 1.")), ("GET", "/bug"): fail(KeyError("secret-of-the-house"))})


DOOR = open_door()


def body_of(response):
    return json.loads(response["body"])


def test_a_route_gets_the_parameters_of_its_path(make_event, context):
    response = serve(make_event("GET", "/items/7"), context, DOOR)
    assert (response["statusCode"], body_of(response)["id"], response["isBase64Encoded"]) == (200, "7", False)
    assert response["headers"]["content-type"] == "application/json"
    assert str(uuid.UUID(response["headers"]["x-request-id"])) == response["headers"]["x-request-id"]
    assert "total;dur=" in response["headers"]["server-timing"]


def test_a_path_without_parameters_goes_first(make_event, context):
    assert body_of(serve(make_event("GET", "/items/newest"), context, DOOR))["id"] is None


@pytest.mark.parametrize("path", ["/", "/item", "/items/", "/items/7/image", "//items", "/items/7/", "", "/ITEMS"])
def test_no_route_is_404(make_event, context, path):
    response = serve(make_event("GET", path), context, DOOR)
    problem = body_of(response)
    assert (response["statusCode"], response["headers"]["content-type"]) == (404, "application/problem+json")
    assert problem["request_id"] == response["headers"]["x-request-id"]


def test_another_method_is_405_with_those_that_are_there(make_event, context):
    response = serve(make_event("PUT", "/items/7"), context, DOOR)
    assert (response["statusCode"], response["headers"]["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS")


def test_head_is_get_without_a_body(make_event, context):
    got, head = (serve(make_event(method, "/items/7"), context, DOOR) for method in ("GET", "HEAD"))
    assert (head["statusCode"], head["body"]) == (200, "")
    assert set(head["headers"]) == set(got["headers"])
    assert serve(make_event("HEAD", "/bytes"), context, DOOR)["isBase64Encoded"] is False


def test_bytes_go_back_in_base64(make_event, context):
    response = serve(make_event("GET", "/bytes"), context, DOOR)
    assert (base64.b64decode(response["body"]), response["isBase64Encoded"]) == (b"\xff\x00", True)
    assert response["headers"]["content-type"] == "image/jpeg"


def test_json_is_compact_and_always_utf_8(make_event, context):
    assert serve(make_event("GET", "/half"), context, DOOR)["body"] == '{"value":"? é"}'


# Errors

def test_our_error_is_a_problem_with_its_sentence(make_event, context):
    response = serve(make_event("GET", "/bad"), context, DOOR)
    assert (response["statusCode"], body_of(response)["detail"]) == (422, "top: expected 1.")


def test_what_may_be_tried_again_says_when(make_event, context):
    response = serve(make_event("GET", "/busy"), context, DOOR)
    assert (response["statusCode"], response["headers"]["retry-after"]) == (503, "1")


@pytest.mark.parametrize(("path", "said"), [("/bug", "secret-of-the-house"), ("/bundle", "model.onnx differs"), ("/nan", "JSON")])
def test_what_is_wrong_on_our_side_stands_in_the_log_alone(make_event, context, lines, path, said):
    response = serve(make_event("GET", path), context, DOOR)
    assert response["statusCode"] in (500, 503)
    assert said not in json.dumps(response)
    logged = lines()
    assert any(said in json.dumps(line) and line["request_id"] == response["headers"]["x-request-id"] for line in logged)


def test_a_batch_of_a_queue_is_not_acknowledged(context):
    with pytest.raises(ForeignEvent, match=r"aws:sqs.*another function"):
        serve({"Records": [{"eventSource": "aws:sqs", "body": "{}"}]}, context, DOOR)


@pytest.mark.parametrize("event", [None, "text", {}, {"a": 1}])
def test_what_is_no_request_gets_a_sentence(event, context):
    response = serve(event, context, DOOR)
    assert (response["statusCode"], body_of(response)["title"]) == (422, "Invalid request")


# Keys and pages

def test_a_function_url_may_ask_for_a_key_itself(make_event, context):
    door = open_door(api_keys=("first", "second"))
    statuses = [serve(make_event("GET", "/items/7", headers=headers), context, door)["statusCode"] for headers in (
        {}, {"x-api-key": "no"}, {"x-api-key": ""}, {"x-api-key": "secönd"}, {"x-api-key": "first"}, {"X-Api-Key": "second"})]
    assert statuses == [403, 403, 403, 403, 200, 200]
    assert serve(make_event("GET", "/health"), context, door)["statusCode"] == 200
    assert serve(make_event("GET", "/nowhere"), context, door)["statusCode"] == 403


def test_who_invokes_by_hand_needs_no_key(context):
    assert serve({"body": "{}"}, context, open_door(api_keys=("first",)))["statusCode"] == 200


def test_a_preflight_needs_no_key_and_allows_the_pages_that_are_named(make_event, context):
    door = open_door(api_keys=("first",), cors_origins=("https://example.org",))
    ours = serve(make_event("OPTIONS", "/items/7", headers={"Origin": "https://example.org"}), context, door)
    assert (ours["statusCode"], ours["body"]) == (204, "")
    assert ours["headers"]["access-control-allow-origin"] == "https://example.org"
    assert ours["headers"]["access-control-allow-methods"] == "DELETE, GET"
    assert "x-api-key" in ours["headers"]["access-control-allow-headers"]
    other = serve(make_event("OPTIONS", "/items/7", headers={"Origin": "https://example.com"}), context, door)
    assert not any(name.startswith("access-control") for name in other["headers"])


def test_errors_tell_a_page_that_it_may_read_them(make_event, context):
    door = open_door(cors_origins=("https://example.org",))
    response = serve(make_event("GET", "/bug", headers={"Origin": "https://example.org"}), context, door)
    assert response["headers"]["access-control-allow-origin"] == "https://example.org"
    assert response["headers"]["vary"] == "origin"


# The log

def test_a_line_says_what_became_of_a_request_and_nothing_that_it_held(make_event, context, lines):
    event = make_event("POST", "/items", b"my body", "text/plain", query="label=my-label", headers={"x-api-key": "my-key"})
    response = serve(event, context, DOOR)
    line, = lines()
    assert line["request_id"] == response["headers"]["x-request-id"]
    assert (line["aws_request_id"], line["route"], line["status"]) == ("8a1d9a0e-aws", "POST /items", 200)
    assert line["Latency"] >= 0
    assert not any(word in json.dumps(line) for word in ("my body", "my-label", "my-key"))


def test_a_failure_is_counted_by_its_reason(make_event, context, lines):
    for path in ("/bad", "/nowhere", "/bug"):
        serve(make_event("GET", path), context, DOOR)
    assert [line["Reason"] for line in lines() if "_aws" in line] == ["BadRequest", "Http404", "Http500"]
