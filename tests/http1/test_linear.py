"""Work grows as its input does, whatever a client sends, and however it cuts it."""

from __future__ import annotations

import contextlib

import pytest

from tests.support.cost import grows_no_faster_than_its_input, lines
from tests.support.fixtures import any_codec
from tests.support.http import make_codec, request
from tests.support.reading import Reading, bytewise, read_all
from trioasgi.http.limits import Limits
from trioasgi.http1.body import MAX_CHUNK_LINE, MAX_CHUNKS, ChunkedBody
from trioasgi.http1.reader import MAX_EMPTY, RequestReader
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.http1.rules import HeadReader

codec = any_codec

WIDE = Limits(header_bytes=1 << 20, header_count=1 << 20, target=1 << 20, body=0)

CHUNKED = request("/", "Transfer-Encoding: chunked", method="POST")


def field(before: str, filling: str, behind: str, size: int) -> bytes:
    return request("/", before + filling * (size // len(filling)) + behind, method="POST")


FILLINGS = [
    " ",
    "\t",
    "a",
    ",",
    ", ",
    ";",
    "a,",
    "a;",
    "a=",
    '"',
    "\\",
    "=",
    ":",
    "\x01",
    "\xff",
    "\r\n ",
    "\n",
]

FIELDS = [
    "X:",
    "Host:",
    "Content-Length:",
    "Transfer-Encoding:",
    "Transfer-Encoding: chunked",
    "Connection:",
    "Upgrade:",
    "Expect:",
    "TE:",
]


@pytest.mark.parametrize("before", FIELDS)
def test_a_field_takes_time_that_grows_with_its_length(codec: str, before: str) -> None:
    """Each of its characters in turn repeated, up to 64 kB."""
    for filling in FILLINGS:
        for behind in ("\x01", "chunked"):
            assert grows_no_faster_than_its_input(
                lambda size: read_all(codec, [field(before, filling, behind, size)], WIDE),  # noqa: B023
                4096,
            ), (filling, behind)


LINES = {
    "a target": b"GET /%b HTTP/1.1\r\n",
    "a query": b"GET /?%b HTTP/1.1\r\n",
    "another form": b"GET a%b HTTP/1.1\r\n",
    "an absolute form": b"GET http://%b/ HTTP/1.1\r\n",
    "a wrong version": b"GET /%b HTTP/1.x\r\n",
    "a method": b"%b / HTTP/1.1\r\n",
    "white space": b"GET %b / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("name", LINES)
def test_a_request_line_takes_time_that_grows_with_its_length(codec: str, name: str) -> None:
    for filling in (b"a", b"/", b"?", b"%", b" ", b"A", b":", b"-"):
        assert grows_no_faster_than_its_input(
            lambda size: read_all(codec, [LINES[name] % (filling * size) + b"\r\n"], WIDE),  # noqa: B023
            4096,
        ), filling


@pytest.mark.parametrize("begun", [b"GET /", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nX: "], ids=repr)
def test_a_head_that_comes_byte_by_byte_is_looked_at_once(codec: str, begun: bytes) -> None:
    assert grows_no_faster_than_its_input(
        lambda size: read_all(codec, bytewise(begun + b"a" * size), WIDE), 1500
    )


def test_a_head_that_comes_byte_by_byte_is_the_same_head(codec: str) -> None:
    stream = request("/a?b", "A: b" * 200, body=b"abc") + b"\r\n" + request("/next") + b"GET /begun HT"
    whole = read_all(codec, [stream])
    assert len(whole.requests) == 2
    assert whole.in_head
    assert read_all(codec, bytewise(stream)) == whole


PARTS = ["3;", '3;a="', "3;a=", "3;a=b ", "3 ", "0\r\nA:", "0\r\nA"]


@pytest.mark.parametrize("before", PARTS)
def test_the_line_of_a_chunk_takes_time_that_grows_with_its_length(before: str) -> None:
    def take(data: bytes) -> None:
        with contextlib.suppress(RequestError):
            ChunkedBody(WIDE).take(data, 0)

    for filling in (b" ", b"\t", b"a", b";", b"=", b'"', b"\\", b";a", b"=b;a", b" ;a"):
        # A chunk's line may have 4 kB at most: two of these sizes are within it.
        assert grows_no_faster_than_its_input(
            lambda size: take(before.encode() + filling * (size // len(filling)) + b"\x01\r\n"),  # noqa: B023
            MAX_CHUNK_LINE // 20,
        ), filling


def test_trailers_that_come_byte_by_byte_are_looked_at_once(codec: str) -> None:
    assert grows_no_faster_than_its_input(
        lambda size: read_all(codec, bytewise(CHUNKED + b"0\r\nA: " + b"a" * size), WIDE), 1500
    )


def read_body(pieces: int) -> list[bytes | None]:
    """What comes of a body of `pieces` chunks that have all arrived."""
    reader = RequestReader(make_codec("h11"), WIDE, "http")
    reader.receive_data(CHUNKED + b"1\r\na\r\n" * pieces)
    assert reader.next_request() is not None
    read: list[bytes | None] = []
    while not read or read[-1] is not None:
        read.append(reader.next_body())
    return read


def test_chunks_that_have_arrived_come_joined() -> None:
    assert read_body(MAX_CHUNKS) == [b"a" * MAX_CHUNKS, None]


def test_a_piece_of_a_body_has_a_bounded_number_of_chunks() -> None:
    """So that whoever takes it can give others their turn."""
    read = read_body(10_000)
    assert b"".join(piece for piece in read if piece) == b"a" * 10_000
    few, many = (lines(lambda: ChunkedBody(WIDE).take(b"1\r\na\r\n" * count, 0)) for count in (2000, 20_000))  # noqa: B023
    assert few == many


def test_a_piece_of_a_body_has_few_chunks_where_their_lines_are_long() -> None:
    chunk = b"1" + b";a=b" * 1000 + b"\r\nx\r\n"
    piece, pos = ChunkedBody(WIDE).take(chunk * 20, 0)
    assert piece in (b"x", b"xx")
    assert pos <= 2 * len(chunk)


def test_the_chunks_before_a_fault_come_before_it(codec: str) -> None:
    stream = CHUNKED + b"1\r\na\r\n2\r\nbc\r\nx\r\n"
    (only,) = (reading := read_all(codec, [stream])).requests
    assert only.body == b"abc"
    assert (reading.status, reading.reason) == (400, Rule.CHUNK.reason)


def test_steps_for_chunks_grow_with_their_number() -> None:
    few, many = (lines(lambda: read_body(count)) for count in (2000, 4000))  # noqa: B023
    assert many < 2.2 * few


# Empty lines before a request


def empty_lines(codec: str, count: int, *, cut: bool) -> Reading:
    stream = b"\r\n" * count + request("/")
    return read_all(codec, bytewise(stream) if cut else [stream])


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "byte by byte"])
def test_a_few_empty_lines_are_passed_over_and_no_more(codec: str, cut: bool) -> None:
    assert len(empty_lines(codec, MAX_EMPTY // 2, cut=cut).requests) == 1
    refused = empty_lines(codec, MAX_EMPTY // 2 + 1, cut=cut)
    assert (refused.status, refused.requests) == (400, ())
    assert refused.reason == Rule.EMPTY_LINES.reason


def test_empty_lines_are_counted_for_each_request(codec: str) -> None:
    each = b"\r\n" * (MAX_EMPTY // 2) + request("/") + b"\r\n" + request("/", body=b"abc")
    for pieces in ([each * 20], bytewise(each * 20), [b"\r\n", request("/")] * 100):
        assert read_all(codec, pieces).status == 0


def test_empty_lines_without_end_take_a_bounded_number_of_steps(codec: str) -> None:
    few, many = b"\r\n" * 100, b"\r\n" * 100_000
    assert lines(lambda: read_all(codec, [many])) <= lines(lambda: read_all(codec, [few]))


def test_fields_of_a_long_head_are_counted_before_they_are_read(codec: str) -> None:
    """A codec may take long for those that are too many anyhow; this one would refuse the first of them."""
    limits = Limits(header_bytes=1 << 16, header_count=1000, target=256, body=0)
    answers = {}
    for count in (999, 1000):
        with pytest.raises(RequestError) as caught:
            HeadReader(make_codec(codec), limits, "http").read(
                request("/", "no field", *["a:"] * (count - 1))
            )
        answers[count] = caught.value.rule
    assert answers == {999: Rule.FIELDS, 1000: Rule.FIELDS_COUNT}
