"""Where a body ends, and what a chunked one may look like (RFC 9112, 6 and 7.1)."""

from __future__ import annotations

import msgspec.structs
import pytest

from tests.support.http import request
from tests.support.reading import LIMITS, Reading, bytewise, read_all
from trioasgi.http.limits import Limits
from trioasgi.http1.body import MAX_CHUNK_LINE
from trioasgi.http1.rule import Rule

HEAD = request("/", "Transfer-Encoding: chunked", method="POST")
NEXT = request("/next")


def read(codec: str, body: bytes, limits: Limits = LIMITS) -> Reading:
    """Read a chunked body, and what comes behind it, whole and byte by byte."""
    whole, cut = (read_all(codec, pieces, limits) for pieces in ([HEAD + body], bytewise(HEAD + body)))
    assert whole == cut
    return whole


RIGHT: dict[str, tuple[bytes, bytes]] = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
    "two chunks": (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
    "hexadecimal of either case": (
        b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
        b"01234567890123456789a",
    ),
    "leading zeros": (b"0003\r\nabc\r\n000\r\n\r\n", b"abc"),
    "a size of 16 digits": (b"0000000000000003\r\nabc\r\n0\r\n\r\n", b"abc"),
    "line ends within": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "an extension": (b"3;a\r\nabc\r\n0;b=c\r\n\r\n", b"abc"),
    "extensions with white space and quotes": (b'3 ; a = "x\\"y;" ;b=c\r\nabc\r\n0\r\n\r\n', b"abc"),
    "the longest extension": (b"3;" + b"a" * (MAX_CHUNK_LINE - 2) + b"\r\nabc\r\n0\r\n\r\n", b"abc"),
    "trailers": (b"3\r\nabc\r\n0\r\nA: b\r\nAuthorization: c\r\n\r\n", b"abc"),
    "a trailer that would frame": (b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n", b"abc"),
}

WRONG: dict[str, tuple[bytes, Rule]] = {
    "no size": (b"\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "no digit": (b"x\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a hexadecimal prefix": (b"0x3\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a plus": (b"+3\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a minus": (b"-3\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an underscore": (b"1_0\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a space before the size": (b" 3\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a space behind the size": (b"3 \r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a tab behind the size": (b"3\t\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a size of more than 64 bits": (b"10000000000000003\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an overflowing size": (b"f" * 40 + b"\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a bare LF behind the size": (b"3\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a bare CR behind the size": (b"3\rabc\r\n0\r\n\r\n", Rule.CHUNK),
    "two CRs behind the size": (b"3\r\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "a chunk that is too long": (b"3\r\nabcd\r\n0\r\n\r\n", Rule.CHUNK),
    "a chunk that is too short": (b"3\r\nab\r\n0\r\n\r\n", Rule.CHUNK),
    "a bare LF behind the data": (b"3\r\nabc\n0\r\n\r\n", Rule.CHUNK),
    "a bare CR behind the data": (b"3\r\nabc\r0\r\n\r\n", Rule.CHUNK),
    "no line end behind the data": (b"3\r\nabc0\r\n\r\n", Rule.CHUNK),
    "an extension without name": (b"3;\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an extension that is no token": (b"3;a(b\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an extension with an open quote": (b'3;a="b\r\nabc\r\n0\r\n\r\n', Rule.CHUNK),
    "an extension with a bare LF": (b"3;a\nb\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an extension with a NUL": (b"3;a\0\r\nabc\r\n0\r\n\r\n", Rule.CHUNK),
    "an extension that is too long": (
        b"3;" + b"a" * (MAX_CHUNK_LINE - 1) + b"\r\nabc\r\n0\r\n\r\n",
        Rule.CHUNK,
    ),
    "an extension without end": (b"3;" + b"a" * 2 * MAX_CHUNK_LINE, Rule.CHUNK),
    "a trailer without colon": (b"0\r\nA\r\n\r\n", Rule.CHUNK),
    "a trailer with a space before the colon": (b"0\r\nA : b\r\n\r\n", Rule.CHUNK),
    "a trailer that is folded": (b"0\r\nA: b\r\n c\r\n\r\n", Rule.CHUNK),
    "a trailer with a control byte": (b"0\r\nA: \x01\r\n\r\n", Rule.CHUNK),
    "a trailer with a bare CR": (b"0\r\nA: b\rc\r\n\r\n", Rule.CHUNK),
    "a trailer with a bare LF": (b"0\r\nA: b\n\r\n", Rule.CHUNK),
    "a trailer that is too long": (b"0\r\nA: " + b"b" * 2048 + b"\r\n\r\n", Rule.TRAILERS_SIZE),
    "trailers that are too long": (b"0\r\n" + 5 * (b"A: " + b"b" * 500 + b"\r\n"), Rule.TRAILERS_SIZE),
    "trailers without end": (b"0\r\n" + b"A" * 4000, Rule.TRAILERS_SIZE),
    "too many trailers": (b"0\r\n" + 21 * b"A: b\r\n" + b"\r\n", Rule.TRAILERS_SIZE),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_chunked_body_is_decoded(codec: str, name: str) -> None:
    coded, body = RIGHT[name]
    reading = read(codec, coded + NEXT)
    assert reading.status == 0
    assert [each.body for each in reading.requests] == [body, b""]
    assert reading.requests[1].target == b"/next"


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_chunked_body_gets_its_answer(codec: str, name: str) -> None:
    coded, rule = WRONG[name]
    reading = read(codec, coded + NEXT)
    assert (reading.status, reading.reason) == (rule.status, rule.reason)
    assert [each.whole for each in reading.requests] == [False]


def test_a_chunk_that_is_longer_than_it_says_gets_its_answer_at_once(codec: str) -> None:
    """Not with the next byte, for which it might have to be waited."""
    reading = read(codec, b"3\r\nabcd")
    assert (reading.status, reading.reason) == (Rule.CHUNK.status, Rule.CHUNK.reason)


def test_trailers_are_dropped(codec: str) -> None:
    # The same list of fields: nothing of a trailer may turn up in it, nor in the next request's.
    first, second = read(
        codec, b"0\r\nAuthorization: stolen\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n" + NEXT
    ).requests
    assert first.headers == ((b"host", b"example.org"), (b"transfer-encoding", b"chunked"))
    assert second.headers == ((b"host", b"example.org"),)


def test_a_chunked_body_is_bounded(codec: str) -> None:
    limits = msgspec.structs.replace(LIMITS, body=5)
    right = read(codec, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", limits)
    assert right.requests[0].body == b"abcde"
    for coded in (b"6\r\n", b"3\r\nabc\r\n3\r\nde", b"ffffffffffffffff\r\n"):
        assert read(codec, coded, limits).status == 413


def test_a_body_that_ends_early_is_not_whole(codec: str) -> None:
    for data in (HEAD + b"3\r\nab", HEAD + b"3\r\nabc\r\n0\r\n", request("/", body=b"abc")[:-1]):
        (only,) = read_all(codec, [data]).requests
        assert only.body in {b"ab", b"abc"}
        assert not only.whole


@pytest.mark.parametrize("length", [0, 1, 2, 100_000])
def test_a_sized_body_ends_where_its_length_says(codec: str, length: int) -> None:
    body = bytes(range(256)) * (length // 256 + 1)
    data = request("/", f"Content-Length: {length}", method="POST") + body[:length] + NEXT
    for pieces in ([data], (data[i : i + 999] for i in range(0, len(data), 999))):
        first, second = read_all(codec, pieces).requests
        assert (first.body, second.target) == (body[:length], b"/next")
