"""Header fields as the application gives them, and what is remembered of them."""

from __future__ import annotations

import array
from typing import Any

import pytest

from tests.asgi.test_messages import Shy
from trioasgi.asgi import headers as module
from trioasgi.asgi.headers import check_headers
from trioasgi.errors import ASGIMessageError


@pytest.mark.parametrize("value", [bytearray(b"12"), memoryview(b"12"), 12, "12", None])
def test_a_length_is_a_byte_string(value: Any) -> None:
    try:
        _, length = check_headers([(b"content-length", value)])
    except ASGIMessageError:
        assert not isinstance(value, bytearray)
    else:
        assert isinstance(value, bytearray)
        assert length == 12


def test_names_come_in_lower_case() -> None:
    for _ in range(2):
        headers, length = check_headers([(b"X-A", b"\xff\t b"), (b"Content-LENGTH", b"007")])
        assert list(headers) == [(b"x-a", b"\xff\t b")]
        assert length == 7


def test_fields_that_are_known_stay_what_they_were() -> None:
    value = bytearray(b"a value for this test")
    fields: list[Any] = [[b"x-changes", value]]
    assert check_headers(fields) == ([(b"x-changes", b"a value for this test")], None)
    value[0:1] = b"the"
    assert check_headers(fields) == ([(b"x-changes", b"the value for this test")], None)
    fields.append((b"x-more", b"1"))
    assert len(check_headers(fields)[0]) == 2


def test_a_field_is_what_was_checked() -> None:
    for _ in range(2):
        checked, _ = check_headers([(b"x-shy", Shy(b"abc"))])
        assert list(checked) == [(b"x-shy", b"abc")]
        assert type(checked[0][1]) is bytes


@pytest.mark.parametrize(
    "value",
    [memoryview(bytearray(b"abcd")), memoryview(array.array("H", b"abcd"))],
    ids=["that may change", "of numbers"],
)
def test_a_value_may_be_a_view_that_has_no_hash(value: memoryview) -> None:
    assert check_headers([(b"x-view", value)]) == ([(b"x-view", b"abcd")], None)


@pytest.mark.parametrize("known", [False, True])
def test_a_name_that_is_a_view_is_taken_whether_or_not_it_is_known(known: bool) -> None:
    name = b"x-Seen-%d" % known
    if known:
        check_headers([(name, b"1")])
    assert check_headers([(memoryview(name), b"1")]) == ([(name.lower(), b"1")], None)


def test_a_view_of_nothing_is_refused_as_a_malformed_field() -> None:
    view = memoryview(b"a")
    view.release()
    for field in ((b"x-view", view), (view, b"a")):
        with pytest.raises(ASGIMessageError, match="must be an iterable of"):
            check_headers([field])


def test_fields_are_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(ASGIMessageError, match="control character"):
            check_headers([(b"x-bad", b"a\r\nb: c")])
        with pytest.raises(ASGIMessageError, match="must be an iterable of"):
            check_headers([(b"x-bad", "text")])  # type: ignore[list-item] # which is what is tested
        with pytest.raises(ASGIMessageError, match="given twice"):
            check_headers([(b"content-length", b"1"), (b"content-length", b"1")])


def test_names_are_remembered_within_a_bound() -> None:
    for number in range(2000):
        check_headers([(b"x-%d" % number, b"value")])
    check_headers([(b"x" * 100, b"value")])
    assert len(module._known_names) <= 1024
    assert max(map(len, module._known_names)) <= 64


def test_a_forged_name_is_neither_sent_nor_remembered() -> None:
    for _ in range(2):
        fields, _length = check_headers([(Shy(b"X-Forger"), b"1")])
        assert list(fields) == [(b"x-forger", b"1")]
    assert not any(b"\r" in name for name in module._known_names)


class Forged(bytes):
    """A byte string that is another in lower case, and another as a number."""

    def lower(self) -> bytes:
        return b"x-a\r\nx-forged: b"

    def isdigit(self) -> bool:
        return True

    def __int__(self) -> int:
        return -1


def test_a_field_is_made_of_the_bytes_that_were_checked() -> None:
    fields, length = check_headers([(Forged(b"X-Lower"), b"1"), (b"content-length", Forged(b"12"))])
    assert list(fields) == [(b"x-lower", b"1")]
    assert length == 12
    with pytest.raises(ASGIMessageError, match="must be one non-negative number"):
        check_headers([(b"content-length", Forged(b"-1"))])


def test_fields_that_come_again_are_remembered_and_those_that_do_not_are_within_a_bound() -> None:
    again = [(b"x-again", b"and again")]
    for _ in range(module.SAMPLE):
        check_headers(again)
    assert isinstance(check_headers(again)[0], tuple)
    before = len(module._known_headers)
    for number in range(10 * module.SAMPLE):
        check_headers([(b"x-number", b"%d" % number)])
    assert len(module._known_headers) <= before + 10
    for number in range(300 * module.SAMPLE):
        check_headers([(b"x-number", b"%d" % number)])
        check_headers([(b"x-large", b"a" * 2000)])
    assert len(module._known_headers) <= 256
    assert not any(b"x-large" in field for fields in module._known_headers for field in fields)


@pytest.mark.parametrize(
    "large",
    [[(b"x-" + b"a" * 2000, b"")], [(b"x-a", b"")] * 400, [(b"content-length", b"0" * 2000)]],
    ids=["a name", "many names", "a length"],
)
def test_fields_that_are_large_without_large_values_are_not_remembered(
    large: list[tuple[bytes, bytes]],
) -> None:
    for _ in range(module.SAMPLE + 1):
        fields, _length = check_headers(large)
    assert isinstance(fields, list)
