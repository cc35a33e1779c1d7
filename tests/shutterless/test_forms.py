import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from shutterless.errors import BadRequest
from shutterless.forms import MAX_HEAD, MAX_PARTS, Part, read_form, read_options

FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'


def parts_of(*disposition: bytes) -> list[Part]:
    return read_form(b"".join(b"--b\r\nContent-Disposition: %s\r\n\r\nx\r\n" % value for value in disposition) + b"--b--", b"b")


# By hand

def test_contents_come_byte_for_byte_even_where_they_look_like_boundaries():
    content = b"\r\n\r\n--\r\n--b-\r\n--\r\n\r\n -- bo"
    assert read_form(b"--bo\r\n\r\n" + content + b"\r\n--bo--", b"bo") == [Part(b"", None, content)]


def test_what_surrounds_a_form_is_dropped_and_white_space_may_follow_a_boundary():
    assert read_form(b"\r\n\r\n--b \t\r\n\r\n1\r\n--b\t\r\n\r\n\r\n--b-- \r\nand more --b", b"b") == [
        Part(b"", None, b"1"), Part(b"", None, b"")]


def test_header_names_are_taken_in_any_case_and_options_in_any_order():
    body = b'--b\r\nX-Other: 1\r\ncontent-DISPOSITION:form-data;FileName=a.jpg ; NAME = "n"\r\n\r\n1\r\n--b--'
    assert read_form(body, b"b") == [Part(b"n", b"a.jpg", b"1")]


@pytest.mark.parametrize(("sent", "read"), [
    (b'a="b;c"; d=e', {b"a": b"b;c", b"d": b"e"}), (b'a="\\"\\\\x\\y"', {b"a": b'"\\x\\y'}), (b'a="', {b"a": b'"'}),
    (b"a=", {b"a": b""}), (b'a=""', {b"a": b""}), (b"a=1; a=2", {b"a": b"2"}), (b"a", {}), (b"", {}), (b";;=;=1", {}),
    (b"a*=UTF-8''x; a=y", {b"a": b"y"}), (b'a*="; b=c"', {}), (b'"; b=c"; d=e', {b"d": b"e"}), (b"a = b c ", {b"a": b"b c"})])
def test_options_are_read_as_the_sender_quoted_them(sent, read):
    assert read_options(b"form-data; " + sent) == read


@pytest.mark.parametrize("body", [
    pytest.param(b"", id="nothing"), pytest.param(b"--b", id="only a boundary"), pytest.param(b"--b-", id="half of an end"),
    pytest.param(b"--b\r\n", id="no head"), pytest.param(FILE, id="no end"),
    pytest.param(FILE + b"x\r\n--b", id="half of a last boundary"),
    pytest.param(FILE + b"x\n--b--", id="a bare line feed before the boundary"),
    pytest.param(FILE[:-2] + b"--b--", id="no empty line after the head"),
    pytest.param(b"x\r\n" + FILE + b"\r\n--b--", id="text before the first boundary"),
    pytest.param(b"\n" + FILE + b"\r\n--b--", id="half of an empty line before the first boundary"),
    pytest.param(FILE + b"x\r\n--bx\r\n\r\n\r\n--b--", id="a boundary that goes on"),
    pytest.param(b"--b\r\nnonsense\r\n\r\n\r\n--b--", id="a line that is no header"),
    pytest.param(b"--b\r\n: x\r\n\r\n\r\n--b--", id="a header without a name"),
    pytest.param(b"--b\r\nA: 1\r\n B: 2\r\n\r\n\r\n--b--", id="a folded header"),
    pytest.param(b"--b\r\nA: 1\nB: 2\r\n\r\n\r\n--b--", id="a bare line feed in a header"),
    pytest.param(b"--b\r\nA: 1\rB: 2\r\n\r\n\r\n--b--", id="a bare carriage return in a header"),
    pytest.param(b"--b\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n\r\n--b--", id="a head without end"),
    pytest.param(b"--b" + b" " * MAX_HEAD + b"\r\n\r\n\r\n--b--", id="a boundary's line without end")])
def test_a_broken_form_is_refused(body):
    with pytest.raises(BadRequest, match="cut short or broken"):
        read_form(body, b"b")


def test_a_form_may_have_so_many_parts_and_no_more():
    assert len(parts_of(*[b"form-data"] * MAX_PARTS)) == MAX_PARTS
    with pytest.raises(BadRequest, match="at most 100 parts"):
        parts_of(*[b"form-data"] * (MAX_PARTS + 1))


@pytest.mark.parametrize("unit", [b"\r\n--b", b"\r\n--b\r\n", b"\r\n", b"\r\n--", b"\r", b'"; x="', b"A: b\r\n", b";", b' \t"\\'])
@pytest.mark.parametrize("head", [b"", b"--b", b"--b\r\n", FILE, b'--b\r\nContent-Disposition: form-data; name="'])
def test_a_hostile_body_takes_a_time_in_proportion(head, unit):
    """Where it did not, 20 MB would take hours, and pytest would stop the test."""
    with pytest.raises(BadRequest):
        read_form(head + unit * (20_000_000 // len(unit)), b"b")


# Against python-multipart

def oracle(body: bytes, boundary: bytes) -> list[Part] | None:
    """The parts as python-multipart reads them, None for what it refuses or finds no end of. It takes white space after
    all boundaries but the first: so another part goes first."""
    parts: list[tuple[dict[bytes, bytes], bytearray]] = []
    ended = []
    name = b""

    def field(chunk: bytes, start: int, end: int) -> None:
        nonlocal name
        name = chunk[start:end].lower()

    parser = MultipartParser(boundary, {
        "on_part_begin": lambda: parts.append(({}, bytearray())), "on_header_field": field,
        "on_header_value": lambda chunk, start, end: parts[-1][0].update({name: chunk[start:end]}),
        "on_part_data": lambda chunk, start, end: parts[-1][1].extend(chunk[start:end]), "on_end": lambda: ended.append(True)})
    try:
        parser.write(b"--%s\r\n\r\n\r\n" % boundary + body)
    except FormParserError:
        return None
    dispositions = [parse_options_header(headers.get(b"content-disposition"))[1] for headers, _ in parts]
    return [Part(options.get(b"name", b""), options.get(b"filename"), bytes(content))
            for options, (_, content) in zip(dispositions, parts, strict=True)][1:] if ended else None


BOUNDARIES = st.sampled_from([b"b", b"--", b"----WebKitFormBoundary7MA4YWxkTrZu0gW", b"'()+_,-./:=?"])
NAMES = st.text(st.characters(exclude_characters='"\\\r\n', exclude_categories=["Cs"]), max_size=20).map(str.encode)
CONTENTS = st.binary(max_size=80) | st.lists(st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", b"b", b"\r\n-", b"\0", b"\xff", b"x"]), max_size=20).map(b"".join)
PARTS = st.lists(st.builds(Part, NAMES, st.none() | NAMES, CONTENTS), max_size=6)


def written(parts: list[Part], boundary: bytes) -> bytes:
    """The form as browsers write it."""
    body = b""
    for name, filename, content in parts:
        body += b'--%s\r\nContent-Disposition: form-data; name="%s"' % (boundary, name)
        body += b"" if filename is None else b'; filename="%s"\r\nContent-Type: image/jpeg' % filename
        body += b"\r\n\r\n" + content + b"\r\n"
    return body + b"--%s--\r\n" % boundary


@given(PARTS, BOUNDARIES)
def test_what_a_browser_writes_is_read_as_python_multipart_reads_it(parts, boundary):
    whole = written(parts, boundary)
    if any(b"\r\n--" + boundary in b"\r\n" + part.content for part in parts):
        return  # no browser would: it chooses a boundary that the contents do not hold
    assert read_form(whole, boundary) == parts == oracle(whole, boundary)


SPLICES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 6), st.sampled_from(
    [b"", b"\r\n", b"\n", b"\r", b"--", b"--b", b"b", b":", b";", b'"', b"=", b" ", b"\0", b"\xe9", b"\r\n--b\r\n",
     b"\r\n--b--", b'Content-Disposition: form-data; name="file"', b"\r\n\r\n", b"X: y\r\n"])), max_size=4)


@settings(max_examples=500)
@given(PARTS, SPLICES)
def test_a_damaged_form_is_refused_or_cut_where_python_multipart_cuts_it(parts, splices):
    body = written(parts, b"b")
    for at, removed, inserted in splices:
        body = body[:at] + inserted + body[at + removed:]
    try:
        read = read_form(body, b"b")
    except BadRequest:
        return
    assert [part.content for part in read] == [part.content for part in oracle(body, b"b") or ()]
