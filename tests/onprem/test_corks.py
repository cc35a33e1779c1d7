import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onprem.corks import SMALL_BYTES, Cork

HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"
LARGE = bytes(SMALL_BYTES + 1)


class Noted(asyncio.Transport):
    """What is written, and whether it was closed after that."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed_after is not None

    def close(self) -> None:
        self.closed_after = len(self.written)


async def written(*pieces: bytes) -> tuple[list[bytes], list[bytes]]:
    """What a client is sent at once, and by the event loop's next turn."""
    transport = Noted()
    cork = Cork(transport, asyncio.get_running_loop())
    for piece in pieces:
        cork.write(piece)
    at_once = [*transport.written]
    await asyncio.sleep(0)
    return at_once, transport.written


@pytest.mark.parametrize(("pieces", "at_once", "sent"), [
    ([HEAD, BODY], [HEAD + BODY], [HEAD + BODY]),
    ([HEAD], [], [HEAD]),
    ([HEAD, BODY, BODY], [HEAD + BODY], [HEAD + BODY, BODY]),
    ([HEAD, LARGE], [HEAD, LARGE], [HEAD, LARGE]),
    ([LARGE, BODY], [LARGE], [LARGE, BODY]),
    ([HEAD, b""], [HEAD], [HEAD]),
    ([b""], [], []),
])
def test_two_small_pieces_leave_together_and_none_waits_for_long(pieces: list[bytes], at_once: list[bytes],
                                                                 sent: list[bytes]) -> None:
    assert asyncio.run(written(*pieces)) == (at_once, sent)


def test_closing_sends_what_is_held_first_and_nothing_is_sent_afterwards() -> None:
    transport = Noted()

    async def close() -> None:
        cork = Cork(transport, asyncio.get_running_loop())
        cork.write(HEAD)
        cork.close()
        assert cork.is_closing()
        cork.write(BODY)
        await asyncio.sleep(0)

    asyncio.run(close())
    assert (transport.written, transport.closed_after) == ([HEAD], 1)


def test_of_a_complete_answer_nothing_is_held(monkeypatch, open_door) -> None:
    """Else it would be lost where the connection is closed before the event loop's next turn."""
    held: list[bytes] = []
    monkeypatch.setattr(HttpToolsProtocol, "on_response_complete", noting(held, HttpToolsProtocol.on_response_complete))
    client = open_door()
    assert [client.head("/health").status_code, client.get("/").status_code, client.get("/none").status_code] == [200, 200, 404]
    assert held == [b""] * 3


def noting(held: list[bytes], complete: Callable[[Any], None]) -> Callable[[Any], None]:
    def note(protocol: Any) -> None:
        held.append(protocol._cork._held)
        complete(protocol)
    return note


def test_an_answer_comes_in_one_piece(start, jpeg) -> None:
    url, tile = start().url(), jpeg("red")
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        for _ in range(20):
            connection.sendall(b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(tile) + tile)
            head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            assert len(body) == int(length.partition(b":")[2]) > 0
