import re
from html.parser import HTMLParser

import pytest
from openapi_spec_validator import validate

from onprem import schemas


class Addresses(HTMLParser):
    """All that a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = ("src",) if tag != "link" else ("href",)
        self.found += [value or "" for name, value in attributes if name in names]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_no_page_asks_another_host_for_anything(client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    addresses = Addresses()
    addresses.feed(answer.text)
    for address in addresses.found:
        assert re.match(r"/(?!/)|data:|blob:", address), address
        if address.startswith("/"):
            assert client.get(address).status_code == 200
    assert "https://" not in answer.text
    assert "http://" not in answer.text.replace("http://www.w3.org", "")


def test_the_page_runs_no_script_but_its_own(client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


def test_swagger_ui_comes_from_this_server(client) -> None:
    script = client.get("/docs/swagger-ui-bundle.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "SwaggerUIBundle" in script.text[:2000] or "SwaggerUIBundle" in script.text
    assert client.get("/docs/swagger-ui.css").headers["content-type"].startswith("text/css")


def test_health_says_how_large_a_picture_may_be_and_when_all_is_ready(client) -> None:
    client.get("/results")  # answers when the database is open
    health = client.get("/health").json()
    assert health == {"status": "ok", "ready": True, "checks": {"model": "ok", "storage": "ok"},
                      "max_inline_bytes": 20_000_000, "version": health["version"]}


def test_the_openapi_document_is_valid_and_tells_errors_as_problems(client) -> None:
    document = client.get("/openapi.json").json()
    validate(document)
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert routes == {("post", "/predict"), ("post", "/upload-image"), ("post", "/upload"), ("post", "/upload_batch"),
                      ("post", "/uploads"), ("post", "/uploads/form"), ("get", "/results"), ("get", "/models"),
                      ("get", "/results/{request_id}/image"), ("delete", "/results/{request_id}"), ("get", "/stats"),
                      ("get", "/health"), ("get", "/health/live"), ("get", "/health/ready")}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
            assert method != "post" or operation["requestBody"]["content"]
            is_ours_alone = path in ("/upload", "/upload_batch", "/uploads/form", "/health/live", "/health/ready")
            assert ("on-prem only" in operation["tags"]) == is_ours_alone


def test_the_document_asks_for_a_key_where_the_server_does(client, open_door) -> None:
    key = {"x-api-key": "one"}
    locked = open_door(api_keys=("one",)).get("/openapi.json", headers=key).json()
    assert client.get("/openapi.json").json()["security"] == []
    assert locked["security"] == [{"key": []}]
    assert {path for path, methods in locked["paths"].items() for method in methods.values() if method.get("security") == []} == {
        "/health", "/health/live", "/health/ready", "/uploads/form"}


def test_answers_are_as_the_document_says(client, jpeg, settle) -> None:
    prediction = client.post("/predict", content=jpeg())
    receipt = client.post("/upload-image", content=jpeg())
    failed = client.post("/upload-image", content=jpeg()[:300]).json()["request_id"]
    settle(client, receipt.json()["request_id"])
    settle(client, failed)
    uploaded = client.post("/upload", files={"file": ("a.jpg", jpeg())})
    batch = client.post("/upload_batch", files=[("files", ("a.jpg", jpeg())), ("files", ("b.txt", b"no"))])
    form = client.post("/uploads", json={"content_type": "image/jpeg", "size_bytes": 10})
    for answer, schema in ((prediction, schemas.Prediction), (receipt, schemas.Receipt),
                           (uploaded, schemas.Uploaded), (batch, schemas.Batch), (form, schemas.Form),
                           (client.get("/health/live"), schemas.Alive), (client.get("/health/ready"), schemas.Ready),
                           (client.get("/results"), schemas.Records),
                           (client.get("/results", params={"request_id": failed}), schemas.Records),
                           (client.get("/models"), schemas.Models), (client.get("/stats"), schemas.Stats),
                           (client.get("/health"), schemas.Health), (client.get("/nope"), schemas.Problem),
                           (client.post("/predict?top=0"), schemas.Problem)):
        schema.model_validate(answer.json())
