"""POST /predict without a query goes past FastAPI's layers: nobody may be able to tell by the answer."""

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

KEY, ORIGIN = {"x-api-key": "a-key"}, {"origin": "http://localhost:5173"}
VARYING = ("x-request-id", "server-timing", "date", "connection")  # the last: whether the body was there when it was refused
REQUESTS: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
    "a picture": lambda picture: {"content": picture, "headers": KEY | ORIGIN},
    "a form": lambda picture: {"files": {"file": ("tile.jpg", picture)}, "headers": KEY},
    "no key": lambda picture: {"content": picture, "headers": ORIGIN},
    "nothing": lambda picture: {"content": b"", "headers": KEY | ORIGIN},
    "no picture": lambda picture: {"content": b"junk", "headers": KEY},
    "a broken form": lambda picture: {"content": b"--x", "headers": KEY | {"content-type": "multipart/form-data; boundary=x"}},
    "too large": lambda picture: {"content": bytes(100_001), "headers": KEY | ORIGIN},
    "no model": lambda picture: {"files": {"file": ("tile.jpg", picture)}, "data": {"model": "nobody"}, "headers": KEY},
}


@pytest.fixture
def client(open_door) -> httpx.Client:
    opened: httpx.Client = open_door(api_keys=("a-key",), max_bytes=100_000, cors_origins=(ORIGIN["origin"],))
    return opened


def told(answer: httpx.Response) -> tuple[int, list[tuple[str, str]], Any]:
    """All that is the same each time."""
    body = answer.json()
    for name in ("timings", "cold_start", "request_id"):
        body.pop(name, None)
    headers = [(name, value) for name, value in answer.headers.items() if name not in (*VARYING, "content-length")]
    return answer.status_code, headers, body


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS.keys())
def test_both_ways_answer_alike(request_of, client, jpeg) -> None:
    request = request_of(jpeg())
    short, long = (client.post(path, **request) for path in ("/predict", "/predict?unknown=1"))
    assert told(short) == told(long)


def test_both_ways_count_alike(client, jpeg) -> None:
    for path in ("/predict", "/predict?unknown=1"):
        client.post(path, content=jpeg(), headers=KEY)
        client.post(path, content=b"junk", headers=KEY)
    metrics = client.get("/metrics", headers=KEY).text
    counts = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in metrics.splitlines()
              if line.startswith("shutterless_http_requests_total") and "/predict" in line}
    assert sorted(map(float, counts.values())) == [2.0, 2.0], counts


@pytest.mark.parametrize(("method", "path", "status"),
                         [("GET", "/predict", 405), ("PUT", "/predict", 405), ("POST", "/predict/", 404)])
def test_other_methods_and_paths_take_the_long_way(method: str, path: str, status: int, client) -> None:
    assert client.request(method, path, headers=KEY).status_code == status
