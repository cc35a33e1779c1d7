import logging

import pytest

ORIGIN = "https://pages.example"


def test_with_keys_set_every_route_but_the_page_and_health_wants_one(open_door, jpeg) -> None:
    client = open_door(api_keys=("first-key", "second-key"))
    assert client.get("/").status_code == client.get("/health").status_code == 200
    for method, path in (("GET", "/results"), ("GET", "/stats"), ("GET", "/models"), ("GET", "/docs"), ("GET", "/nope"),
                         ("GET", "/openapi.json"), ("POST", "/predict"), ("POST", "/upload-image"), ("HEAD", "/docs"),
                         ("DELETE", "/results/x"), ("POST", "/upload"), ("POST", "/upload_batch"), ("POST", "/uploads"),
                         ("GET", "/uploads/form/x"), ("GET", "/health/x"), ("GET", "/results/x/image"), ("OPTIONS", "/results")):
        for key in (None, "", "first", "first-key2", "FIRST-KEY", "ключ".encode()):
            answer = client.request(method, path, headers={} if key is None else {"x-api-key": key})
            assert answer.status_code == 403
            assert answer.headers["content-type"] == "application/problem+json"
            assert method == "HEAD" or "x-api-key" in answer.json()["detail"]
    for key in ("first-key", "second-key"):
        assert client.post("/predict", content=jpeg(), headers={"x-api-key": key}).json()["label"] == "red"


def test_only_the_origins_that_are_set_may_call_from_a_page(open_door) -> None:
    client = open_door(api_keys=("key",), cors_origins=(ORIGIN,))
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key,content-type"}
    preflight = client.options("/predict", headers=ask | {"origin": ORIGIN})
    assert preflight.status_code == 200  # needs no key
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    for other in ("https://evil.example", ORIGIN + ".evil.example", "null"):
        assert "access-control-allow-origin" not in client.options("/predict", headers=ask | {"origin": other}).headers
        assert "access-control-allow-origin" not in client.get("/health", headers={"origin": other}).headers
    refused = client.post("/predict", headers={"origin": ORIGIN})
    assert refused.status_code == 403
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # or the page could not read why


def test_the_page_s_development_server_may_call_where_a_setting_says_so(open_door) -> None:
    vite = "http://localhost:5173"
    client = open_door(cors_origins=(vite,))
    for path in ("/upload_batch", "/uploads", "/uploads/form", "/results/x"):
        ask = {"origin": vite, "access-control-request-method": "DELETE" if path == "/results/x" else "POST"}
        assert client.options(path, headers=ask).headers["access-control-allow-origin"] == vite
    for other in ("http://localhost:5174", "http://127.0.0.1:5173", "https://localhost:5173"):
        assert "access-control-allow-origin" not in client.get("/health", headers={"origin": other}).headers


def test_without_origins_no_page_may_call(client) -> None:
    answer = client.get("/health", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_head_answers_as_get_without_the_body(client) -> None:
    for path in ("/health", "/", "/results", "/openapi.json"):
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nope", 404), ("GET", "/predict/", 404), ("GET", "/docs/passwd", 404),
    ("GET", "/docs/..%2f..%2fapp.py", 404), ("GET", "/predict", 405), ("PUT", "/results", 405),
    ("POST", "/health", 405), ("OPTIONS", "/predict", 405), ("TRACE", "/", 405), ("HEAD", "/predict", 405)])
def test_a_wrong_address_or_method_is_a_problem_too(client, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("allow" in answer.headers) == (status == 405)
    assert method == "HEAD" or answer.json()["request_id"] == answer.headers["x-request-id"]


def test_a_bug_is_a_problem_that_tells_nothing_but_it_is_logged(open_door, jpeg, monkeypatch, caplog) -> None:
    client = open_door()
    monkeypatch.setattr(client.door.shelf, "classifier", lambda _: {}["secret"])
    with caplog.at_level(logging.ERROR, logger="onprem.envelope"):
        answer = client.post("/predict", content=jpeg())
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] in caplog.text
    assert "secret" in caplog.text
