"""Streams that the fuzzer has found to be read in two ways: they are read in one now."""

from __future__ import annotations

import pytest

from tests.fuzz.check import Tally, check, corpus
from tests.support.http import request

FOUND: dict[str, bytes] = {
    "white space behind a coding, a tab in its midst": (
        request("/", "Transfer-Encoding: chunked\t ", method="POST") + b"0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_read_alike(name: str) -> None:
    check(FOUND[name], Tally())


def test_the_corpus_is_read_alike() -> None:
    tally = Tally()
    for data in corpus():
        check(data, tally)
    assert tally.refused > 100
    assert tally.requests > 100
