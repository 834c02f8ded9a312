"""Patterns that are compiled when they are first used."""

from __future__ import annotations

import re

import pytest

from trioasgi.patterns import compiled_later


def test_a_pattern_is_compiled_when_it_is_first_used(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []
    compile_now = re.compile

    def noted(pattern: str) -> re.Pattern[str]:
        compiled.append(pattern)
        return compile_now(pattern)

    monkeypatch.setattr(re, "compile", noted)
    pattern = compiled_later("a(b+)")
    assert compiled == []
    for _ in range(2):
        assert pattern.fullmatch("ab")
        assert pattern.fullmatch("abc") is None
        match = pattern.match("xabb", 1)
        assert match is not None
        assert match[1] == "bb"
    assert compiled == ["a(b+)"] * 2  # once for each method; `re` keeps what it has compiled


def test_a_pattern_of_bytes() -> None:
    assert compiled_later(rb"\d+").fullmatch(b"12")
