import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shutterless.credentials import CredentialSource
from shutterless.errors import BadSettings, Unavailable
from shutterless.sigv4 import Credentials


@contextmanager
def container_host(answers: list[bytes]) -> Iterator[tuple[str, list[str | None]]]:
    """A host that hands out `answers`, one a request, and notes the tokens that it was shown."""
    shown: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization"))
            body = answers[min(len(shown), len(answers)) - 1]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/role", shown
        server.shutdown()
        thread.join()


def handed_out(key: str, *, ends_in_s: int = 3600) -> bytes:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ends_in_s))
    return json.dumps({"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": ends}).encode()


def test_the_environment_s_access_key_goes_first():
    source = CredentialSource({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"})
    assert source.get() == Credentials("a", "s", "t")
    assert CredentialSource({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": ""}).get().token is None


def test_a_restored_function_asks_its_host_once_until_they_end_or_are_forgotten():
    with container_host([handed_out("a"), handed_out("b")]) as (url, shown):
        source = CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "key"})
        assert [source.get().access_key, source.get().access_key] == ["a", "a"]
        source.forget()
        assert (source.get(), shown) == (Credentials("b", "s", "t"), ["key", "key"])


def test_credentials_that_are_about_to_end_are_renewed():
    with container_host([handed_out("a", ends_in_s=60), handed_out("b")]) as (url, _):
        source = CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url})
        assert [source.get().access_key, source.get().access_key, source.get().access_key] == ["a", "b", "b"]


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"AccessKeyId": "a"}', b"<html>"])
def test_a_host_that_answers_with_something_else_may_be_asked_again(answer):
    with container_host([answer]) as (url, _), pytest.raises(Unavailable, match="Try again"):
        CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}).get()


def test_a_host_that_does_not_answer_may_be_asked_again():
    with pytest.raises(Unavailable, match="Try again"):
        CredentialSource({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}).get()


@pytest.mark.parametrize("environ", [{}, {"AWS_ACCESS_KEY_ID": "a"},
                                     {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.org/plain"}])
def test_without_credentials_a_sentence_says_which_variables_are_missing(environ):
    with pytest.raises(BadSettings, match="AWS_ACCESS_KEY_ID"):
        CredentialSource(environ).get()
