import json
import socket
from typing import Any

import httpx
import pytest

from onprem.heads import MAX_HEAD_BYTES


def answer_to(url: str, sent: bytes) -> tuple[int, dict[str, Any]]:
    """Status and problem that raw bytes are answered with."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize("endless", [b"GET /" + b"a" * 300_000, b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000,
                                     b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000], ids=["address", "header", "headers"])
def test_a_head_that_goes_on_is_refused_and_the_server_answers_others(start, endless: bytes) -> None:
    url = start().url()
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(endless[: MAX_HEAD_BYTES + 1])
        head = connection.recv(65_536)
    assert head.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in head
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"])
def test_what_is_not_http_is_told_so_by_a_problem(start, sent: bytes) -> None:
    status, said = answer_to(start().url(), sent)
    assert status == said["status"] == 400
    assert "HTTP library" in said["detail"]


def test_many_requests_over_one_connection_are_not_counted_as_one_head(start) -> None:
    with httpx.Client(base_url=start().url()) as client:
        for _ in range(100):
            assert client.get("/health", headers={"x-padding": "a" * 2_000}).status_code == 200
