import pytest

from shutterless import errors
from shutterless.problems import problem


def test_an_error_of_ours_says_its_own_sentence():
    assert problem(errors.TooLarge("Expected less, got more. Send less."), "r-1") == {
        "type": "about:blank", "title": "Picture too large", "status": 413,
        "detail": "Expected less, got more. Send less.", "request_id": "r-1"}


@pytest.mark.parametrize(("error", "status"), [
    (errors.BadPicture, 400), (errors.UnsupportedPicture, 415), (errors.BadRequest, 422), (errors.NotFound, 404),
    (errors.BadBundle, 503), (errors.Unavailable, 503), (errors.Overloaded, 503), (KeyError, 500), (MemoryError, 500)])
def test_every_error_has_its_status(error, status):
    assert problem(error("x"), "r-1")["status"] == status


@pytest.mark.parametrize("error", [ValueError("password=hunter2"), errors.ShutterlessError("password=hunter2"),
                                   errors.BadBundle("model.onnx in /srv: password=hunter2")])
def test_what_is_not_written_for_clients_never_reaches_them(error):
    body = problem(error, "r-1")
    assert "hunter2" not in str(body)
    assert "request_id" in body["detail"]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 413, 415, 418, 422, 429, 500, 502, 503, 504, 599])
def test_a_bare_status_gets_a_title_and_a_sentence(status):
    body = problem(status, "r-1")
    assert body["status"] == status
    assert body["title"]
    assert body["detail"].endswith(".")


def test_a_detail_replaces_the_sentence():
    assert problem(404, "r-1", "No such result.")["detail"] == "No such result."
