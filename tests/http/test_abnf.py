"""The grammars that several modules read."""

from __future__ import annotations

import re
import string

import pytest

from tests.support.cost import grows_no_faster_than_its_input
from trioasgi.config import checks
from trioasgi.http import abnf
from trioasgi.http.authority import is_authority

TCHARS = set("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters)

GRAMMARS = {name: getattr(abnf, name) for name in ("TOKEN", "FIELD_LINE", "QUOTED_STRING", "AUTHORITY")}


def matches(pattern: bytes, text: bytes) -> bool:
    return re.fullmatch(pattern, text) is not None


def test_each_byte_is_in_the_sets_where_the_rfcs_have_it() -> None:
    for char in range(256):
        byte = bytes([char])
        is_text = 0x21 <= char <= 0x7E or char >= 0x80 or char in b" \t"
        assert matches(abnf.TOKEN, byte) is (chr(char) in TCHARS), byte
        assert matches(abnf.FIELD_LINE, b"a:" + byte) is is_text, byte
        assert matches(abnf.QUOTED_STRING, b'"' + byte + b'"') is (is_text and char not in b'"\\'), byte
        assert matches(abnf.QUOTED_STRING, b'"\\' + byte + b'"') is is_text, byte


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"example.org",
            b"example.org:",
            b"example.org:8000",
            b"[::1]",
            b"[::1]:80",
            b"[v1.a:b]",
            b"127.0.0.1:1",
        ),
        *(b"a%20b", b"a_b", b"!$&'()*+,;="),
    ],
)
def test_an_authority(text: bytes) -> None:
    assert matches(abnf.AUTHORITY, text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b":80",
        b"a@b",
        b"a b",
        b"a:b",
        b"a:123456",
        b"[::1",
        b"::1",
        b"a/b",
        b"a?b",
        b"a#b",
        b"%2",
        b"a\x80",
        b"[]",
    ],
)
def test_no_authority(text: bytes) -> None:
    assert not matches(abnf.AUTHORITY, text)


@pytest.mark.parametrize(
    "address",
    [
        *(
            b"::",
            b"::1",
            b"1::",
            b"2001:DB8::1",
            b"1:2:3:4:5:6:7:8",
            b"::ffff:192.0.2.1",
            b"1:2:3:4:5:6:1.2.3.4",
        ),
        *(b"v1.a:b", b"VF.~"),
    ],
)
def test_an_ip_literal(address: bytes) -> None:
    assert is_authority(b"[" + address + b"]")
    assert is_authority(b"[" + address + b"]:80")


@pytest.mark.parametrize(
    "address",
    [
        *(b":::1", b"1:2:3", b"::ffff:999.1.1.1", b"12345::1", b"::1::2", b"1:2:3:4:5:6:7:8:9", b".", b":"),
        *(b"1.2.3.4", b"1:2:3:4:5:6:7::8:9", b"::1.2.3", b"::01.2.3.4", b"1:2:3:4:5:6:7:", b"v1."),
    ],
)
def test_no_ip_literal(address: bytes) -> None:
    assert not is_authority(b"[" + address + b"]")
    assert not is_authority(b"[" + address + b"]:80")


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("text", [b"a", b" ", b"\t", b":", b'"', b"\\", b"%2", b"[", b"\x01"])
def test_matching_takes_as_long_as_the_input_is(name: str, text: bytes) -> None:
    grammar = re.compile(GRAMMARS[name])
    assert grows_no_faster_than_its_input(
        lambda size: grammar.fullmatch(b'"a:' + text * size + b"\x01"), 4000
    )


def test_the_option_header_has_the_same_grammar() -> None:
    """Options stand below this room and cannot import it."""
    for byte in (bytes([char]) for char in range(256)):
        for line in (byte + b":a", b"a:" + byte):
            matched = re.fullmatch(checks._HEADER, line.decode("latin-1")) is not None
            assert matched is matches(abnf.FIELD_LINE, line), line
