"""The grammars that several modules read."""

from __future__ import annotations

import re
import string

import pytest

from tests.support.cost import grows_no_faster_than_its_input
from trioasgi import config
from trioasgi.http import abnf

TCHARS = set("!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters)

GRAMMARS = {name: getattr(abnf, name) for name in ("TOKEN", "FIELD_LINE", "QUOTED_STRING", "AUTHORITY")}


def matches(pattern: bytes, text: bytes) -> bool:
    return re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize("char", range(256))
def test_each_byte_is_in_the_sets_where_the_rfcs_have_it(char: int) -> None:
    byte = bytes([char])
    is_visible = 0x21 <= char <= 0x7E or char >= 0x80
    assert matches(abnf.TOKEN, byte) is (chr(char) in TCHARS)
    assert matches(abnf.FIELD_LINE, b"a:" + byte) is (is_visible or char in b" \t")
    assert matches(abnf.QUOTED_STRING, b'"' + byte + b'"') is (
        (is_visible or char in b" \t") and char not in b'"\\'
    )
    assert matches(abnf.QUOTED_STRING, b'"\\' + byte + b'"') is (is_visible or char in b" \t")


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


@pytest.mark.parametrize("name", GRAMMARS)
@pytest.mark.parametrize("text", [b"a", b" ", b"\t", b":", b'"', b"\\", b"%2", b"[", b"\x01"])
def test_matching_takes_as_long_as_the_input_is(name: str, text: bytes) -> None:
    grammar = re.compile(GRAMMARS[name])
    assert grows_no_faster_than_its_input(
        lambda size: grammar.fullmatch(b'"a:' + text * size + b"\x01"), 4000
    )


@pytest.mark.parametrize("char", range(256))
def test_the_option_header_has_the_same_grammar(char: int) -> None:
    """Options stand below this room and cannot import it."""
    for line in (bytes([char]) + b":a", b"a:" + bytes([char])):
        assert bool(config._HEADER.fullmatch(line.decode("latin-1"))) is matches(abnf.FIELD_LINE, line)
