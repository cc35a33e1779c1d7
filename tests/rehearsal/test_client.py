"""What the rehearsal's client sends is what it says it is."""

import socket

import pytest

from rehearsal import client
from rehearsal.client import bomb, form, request, tile
from rehearsal.watched import CheckFailed
from shutterless.errors import BadPicture
from shutterless.pictures import decode


def test_tiles_are_pictures_and_no_two_are_alike():
    tiles = [tile(seed) for seed in range(50)]
    assert len(set(tiles)) == 50
    assert tile(7) == tiles[7]
    assert decode(tiles[0]).size == (64, 64)


def test_the_bomb_is_small_and_hostile():
    picture = bomb()
    assert len(picture) < 1_000
    with pytest.raises(BadPicture):
        decode(picture)


def test_a_form_has_its_file_last_and_whole():
    """S3 ignores what stands behind the file."""
    body, kind = form({"key": "uploads/x", "policy": "p"}, b"\xff\xd8picture")
    boundary = kind.partition("boundary=")[2].encode()
    parts = body.split(b"--" + boundary)
    assert b'name="key"' in parts[1]
    assert b'name="file"' in parts[-2]
    assert parts[-2].endswith(b"\r\n\r\n\xff\xd8picture\r\n")
    assert parts[-1] == b"--\r\n"


def test_an_answer_that_never_comes_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(CheckFailed, match="GET /health: expected an answer"):
        request("GET", f"http://127.0.0.1:{deaf.getsockname()[1]}/health")
