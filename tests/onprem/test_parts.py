from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onprem.parts import Head, PartReader
from shutterless.errors import BadRequest
from shutterless.forms import Part, read_form

BODY = (b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        b"\xff\xd8\r\n--bc\r\n-\r\n--\r\n--b \r\nContent-Disposition: form-data; name=true_label\r\n\r\n\r\n--b--\r\nepilogue")


def parts(body: bytes, cuts: list[int]) -> list[Part]:
    """What a reader makes of a body that comes in pieces."""
    reader, found = PartReader(b"b"), []
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        for event in reader.feed(body[start:end]):
            if isinstance(event, Head):
                found.append(Part(event.name, event.filename, b""))
            elif event is not None:
                found[-1] = found[-1]._replace(content=found[-1].content + event)
    reader.close()
    return found


def outcome(read):
    try:
        return read()
    except BadRequest as error:
        return str(error)


@given(st.lists(st.integers(0, 1000)))
def test_however_a_body_is_cut_it_has_the_same_parts(cuts) -> None:
    body = BODY.replace(b"\r\n--bc", b"\r\n--c")
    assert parts(body, cuts) == read_form(body, b"b")
    assert len(parts(body, cuts)) == 2


@given(st.lists(st.sampled_from([b"\r\n", b"--b", b"--", b" ", b"x", b"Content-Disposition: form-data; name=a", b"\r\n\r\n"]),
                max_size=20).map(b"".join), st.lists(st.integers(0, 200)))
def test_it_takes_and_refuses_what_the_reader_of_whole_bodies_does(body, cuts) -> None:
    assert outcome(lambda: parts(body, cuts)) == outcome(lambda: read_form(body, b"b"))


@pytest.mark.parametrize("body", [b"x" * 100_000, b"--b" + b" " * 100_000, b"--b\r\n" + b"a: b\r\n" * 10_000, BODY[:40]])
def test_what_never_becomes_a_part_is_refused_and_not_kept(body: bytes) -> None:
    with pytest.raises(BadRequest, match="multipart/form-data"):
        parts(body, list(range(0, len(body), 1000)))


@pytest.mark.parametrize("boundary", [b"", b"b" * 257])
def test_a_boundary_that_cannot_be_one_is_refused(boundary: bytes) -> None:
    with pytest.raises(BadRequest):
        PartReader(boundary)
