"""Header fields as the application gives them: what is refused, and what is sent."""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import pytest

from tests.asgi.test_messages import Shy
from trioasgi.errors import ASGIMessageError
from trioasgi.http.fields import DefaultFields
from trioasgi.http.request import Header
from trioasgi.http.response_fields import check_fields
from trioasgi.http1 import encoder as module
from trioasgi.http1.encoder import HeadEncoder

STATUS_LINE = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def heads() -> HeadEncoder:
    return HeadEncoder(DefaultFields(date=False, server=False))


def check_headers(heads: HeadEncoder, headers: Any) -> tuple[list[Header], int | None]:
    """The fields that are sent, and the Content-Length. As a head, and where they are no head."""
    pieces, length, _ = heads.encode(200, headers, takes_length=False)
    head = b"".join(pieces)
    assert head.startswith(STATUS_LINE)
    lines = head.removeprefix(STATUS_LINE).split(b"\r\n")
    assert lines.pop() == b""
    fields = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    if not isinstance(headers, Iterator):
        assert check_fields(headers) == fields
    return fields, length


@pytest.mark.parametrize("value", [bytearray(b"12"), memoryview(b"12"), 12, "12", None])
def test_a_length_is_a_byte_string(heads: HeadEncoder, value: Any) -> None:
    try:
        _, length = check_headers(heads, [(b"content-length", value)])
    except ASGIMessageError:
        assert not isinstance(value, bytearray | memoryview)
    else:
        assert isinstance(value, bytearray | memoryview)
        assert length == 12


def test_names_come_in_lower_case(heads: HeadEncoder) -> None:
    for _ in range(2):
        headers, length = check_headers(heads, [(b"X-A", b"\xff\t b"), (b"Content-LENGTH", b"007")])
        assert headers == [(b"x-a", b"\xff\t b")]
        assert length == 7


def test_a_value_has_no_control_character(heads: HeadEncoder) -> None:
    for char in range(256):
        field = (b"x-char", b"a%cb" % char)
        if char in b"\t" or (char >= 0x20 and char != 0x7F):  # RFC 9110, 5.5
            assert check_headers(heads, [field]) == ([field], None)
        else:
            with pytest.raises(ASGIMessageError, match="x-char has a value with a control character"):
                check_headers(heads, [(b"x-fine", b"1"), field])


def test_a_second_length_is_found_among_fields_that_repeat(heads: HeadEncoder) -> None:
    cookies = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    assert check_headers(heads, [*cookies, (b"content-length", b"1")]) == (cookies, 1)
    with pytest.raises(ASGIMessageError, match="given twice"):
        check_headers(heads, [(b"content-length", b"1"), *cookies, (b"Content-Length", b"1")])


def test_fields_may_come_from_an_iterator(heads: HeadEncoder) -> None:
    for _ in range(2 * module.SAMPLE):
        fields = [(b"x-a", b"1"), (b"x-b", b"2")]
        assert check_headers(heads, iter(fields)) == (fields, None)


def test_a_value_that_changes_is_sent_as_it_was_when_it_was_checked(heads: HeadEncoder) -> None:
    value = bytearray(b"a value for this test")
    fields: list[Any] = [[b"x-changes", value]]
    assert check_headers(heads, fields) == ([(b"x-changes", b"a value for this test")], None)
    value[0:1] = b"the"
    assert check_headers(heads, fields) == ([(b"x-changes", b"the value for this test")], None)
    fields.append((b"x-more", b"1"))
    assert len(check_headers(heads, fields)[0]) == 2


def test_a_field_is_what_was_checked(heads: HeadEncoder) -> None:
    for _ in range(2):
        checked, _ = check_headers(heads, [(b"x-shy", Shy(b"abc"))])
        assert list(checked) == [(b"x-shy", b"abc")]
        assert type(checked[0][1]) is bytes


@pytest.mark.parametrize(
    "value",
    [memoryview(bytearray(b"abcd")), memoryview(array.array("H", b"abcd"))],
    ids=["that may change", "of numbers"],
)
def test_a_value_may_be_a_view_that_has_no_hash(heads: HeadEncoder, value: memoryview) -> None:
    assert check_headers(heads, [(b"x-view", value)]) == ([(b"x-view", b"abcd")], None)


@pytest.mark.parametrize("known", [False, True])
def test_a_name_that_is_a_view_is_taken_whether_or_not_it_is_known(heads: HeadEncoder, known: bool) -> None:
    name = b"x-Seen-%d" % known
    if known:
        check_headers(heads, [(name, b"1")])
    assert check_headers(heads, [(memoryview(name), b"1")]) == ([(name.lower(), b"1")], None)


def test_a_view_of_nothing_is_refused_as_a_malformed_field(heads: HeadEncoder) -> None:
    view = memoryview(b"a")
    view.release()
    for field in ((b"x-view", view), (view, b"a")):
        with pytest.raises(ASGIMessageError, match="must be an iterable of"):
            check_headers(heads, [field])


def test_fields_are_refused_again(heads: HeadEncoder) -> None:
    for _ in range(2):
        with pytest.raises(ASGIMessageError, match="control character"):
            check_headers(heads, [(b"x-bad", b"a\r\nb: c")])
        with pytest.raises(ASGIMessageError, match="must be an iterable of"):
            check_headers(heads, [(b"x-bad", "text")])
        with pytest.raises(ASGIMessageError, match="given twice"):
            check_headers(heads, [(b"content-length", b"1"), (b"content-length", b"1")])


def test_names_are_remembered_within_a_bound(heads: HeadEncoder) -> None:
    for number in range(2000):
        check_headers(heads, [(b"x-%d" % number, b"value")])
    check_headers(heads, [(b"x" * 100, b"value")])
    assert len(heads._names) == 1024
    assert max(map(len, heads._names)) <= 64


def test_a_forged_name_is_neither_sent_nor_remembered(heads: HeadEncoder) -> None:
    for _ in range(2):
        fields, _length = check_headers(heads, [(Shy(b"X-Forger"), b"1")])
        assert list(fields) == [(b"x-forger", b"1")]
    assert not any(b"\r" in name for name in heads._names)


class Forged(bytes):
    """A byte string that is another in lower case, and another as a number."""

    def lower(self) -> bytes:
        return b"x-a\r\nx-forged: b"

    def isdigit(self) -> bool:
        return True

    def __int__(self) -> int:
        return -1


def test_a_field_is_made_of_the_bytes_that_were_checked(heads: HeadEncoder) -> None:
    fields, length = check_headers(heads, [(Forged(b"X-Lower"), b"1"), (b"content-length", Forged(b"12"))])
    assert list(fields) == [(b"x-lower", b"1")]
    assert length == 12
    with pytest.raises(ASGIMessageError, match="must be one non-negative number"):
        check_headers(heads, [(b"content-length", Forged(b"-1"))])


def test_lines_of_fields_that_come_again_are_remembered(heads: HeadEncoder) -> None:
    again = [(b"X-Again", b"and again"), (b"Content-Length", b"012")]
    for _ in range(2 * module.SAMPLE):
        assert check_headers(heads, again) == ([(b"x-again", b"and again")], 12)
    assert heads._lines == {again[0]: b"x-again: and again\r\n", again[1]: b""}
    assert heads._lengths == {again[1]: (12, b"content-length: 12\r\n")}
    with pytest.raises(ASGIMessageError, match="given twice"):
        check_headers(heads, [again[1], again[1]])


def test_a_length_is_checked_also_where_it_is_not_sent() -> None:
    assert check_fields([(b"Content-Length", b"3"), (b"x-a", b"1")]) == [(b"x-a", b"1")]
    with pytest.raises(ASGIMessageError, match="must be one non-negative number"):
        check_fields([(b"content-length", b"x")])
    with pytest.raises(ASGIMessageError, match="given twice"):
        check_fields([(b"content-length", b"3"), (b"Content-Length", b"3")])


@pytest.mark.parametrize("digits", [b"9" * 19, b"9" * 5000, b"\xb2"])
def test_a_length_is_a_number_of_bytes_that_could_be_sent(heads: HeadEncoder, digits: bytes) -> None:
    """Python makes no number of more than 4300 digits."""
    fields = [(b"content-length", digits)]
    with pytest.raises(ASGIMessageError, match="must be one non-negative number"):
        heads.encode(200, fields)
    with pytest.raises(ASGIMessageError, match="must be one non-negative number"):
        check_fields(fields)


def test_a_length_is_sent_without_leading_zeros(heads: HeadEncoder) -> None:
    """Some readers would take `010` for eight."""
    for _ in range(2 * module.SAMPLE):
        pieces, length, _ = heads.encode(200, [(b"Content-Length", b"010")])
        assert b"".join(pieces) == STATUS_LINE + b"content-length: 10\r\n"
        assert length == 10


class Again:
    """Header fields that are others whenever they are asked for."""

    def __init__(self) -> None:
        self._asked = 0

    def __iter__(self) -> Iterator[Header]:
        self._asked += 1
        yield (b"x-again", b"good" if self._asked % 2 else b"bad\r\nset-cookie: forged")


def test_fields_that_were_not_checked_are_not_remembered(heads: HeadEncoder) -> None:
    for _ in range(2 * module.SAMPLE):
        heads.encode(200, Again())
    with pytest.raises(ASGIMessageError, match="control character"):
        heads.encode(200, [(b"x-again", b"bad\r\nset-cookie: forged")])


class Replacing:
    """A field that replaces another one, which has been read before it."""

    def __init__(self, headers: list[Any], field: Any) -> None:
        self._headers = headers
        self._field = field

    def __iter__(self) -> Iterator[bytes]:
        self._headers[0] = self._field
        return iter((b"x-replacing", b"1"))


@pytest.mark.parametrize(
    "field",
    [
        (b"x-replaced", b"bad\r\nset-cookie: forged"),
        (b"x-replaced", b"good", b"bad"),
        (b"x-replaced",),
        (b"Content-Length", b"bad"),
    ],
)
def test_a_field_that_has_been_replaced_since_it_was_checked_is_not_remembered(
    heads: HeadEncoder, field: Any
) -> None:
    heads.encode(200, [(b"x-replaced", b"good"), (b"Content-Length", b"1")])  # the names are known
    for _ in range(2 * module.SAMPLE):
        headers: list[Any] = [(b"x-replaced", b"good")]
        headers.append(Replacing(headers, field))
        heads.encode(200, headers)
    with pytest.raises(ASGIMessageError):
        heads.encode(200, [field])


def test_a_bad_value_is_named_also_if_its_fields_can_be_read_only_once(heads: HeadEncoder) -> None:
    bad = (b"X-Bad", b"a\r\nb: c")
    heads.encode(200, [(b"x-good", b"1")])
    for headers in ([bad], iter([bad]), [iter(bad)], iter([(b"x-good", b"1"), (b"date", b"1"), iter(bad)])):
        with pytest.raises(ASGIMessageError, match="header x-bad has a value with a control character"):
            heads.encode(200, headers)
    for headers in ([bad], [iter(bad)]):
        with pytest.raises(ASGIMessageError, match="header x-bad has a value with a control character"):
            check_fields(headers)
    special = HeadEncoder(DefaultFields(date=True, server=True))
    with pytest.raises(ASGIMessageError, match="header date has a value with a control character"):
        special.encode(200, iter([(b"x-good", b"1"), (b"Date", b"\n")]))


def test_few_lines_are_remembered_and_short_ones(heads: HeadEncoder) -> None:
    for number in range(3 * 512 * module.SAMPLE):
        heads.encode(200, [(b"x-number", b"%d" % number), (b"content-length", b"%d" % number)])
        heads.encode(200, [(b"x-large", b"%d" % number + b"a" * 300)])
    assert 0 < len(heads._lines) <= 512
    assert len(heads._lengths) < 512
    assert max(len(line) for line in heads._lines.values()) <= 260


@pytest.mark.parametrize(
    "field",
    [
        (b"date", b"today"),
        (b"server", b"mine"),
        (b"connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"x-list", bytearray(b"1")),
        [b"x-list", b"1"],
    ],
)
def test_a_field_that_may_mean_another_thing_next_time_is_not_remembered(field: Any) -> None:
    heads = HeadEncoder(DefaultFields(date=True, server=True))
    first = heads.encode(200, [field])[2]
    for _ in range(2 * module.SAMPLE):
        assert heads.encode(200, [field])[2] == first
    assert not heads._lines
