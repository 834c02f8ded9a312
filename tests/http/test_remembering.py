"""What is remembered for later requests: asked once for each key, and bounded."""

from __future__ import annotations

import pytest

from trioasgi.asgi import forwarded
from trioasgi.http.remembering import Remembering
from trioasgi.http1 import rules


def test_the_function_is_asked_once_for_each_key() -> None:
    asked: list[bytes] = []

    def size(key: bytes) -> int:
        asked.append(key)
        return len(key)

    sizes = Remembering(size, 2)
    assert [sizes[key] for key in (b"a", b"bc", b"a", b"bc")] == [1, 2, 1, 2]
    assert asked == [b"a", b"bc"]


def test_nothing_is_remembered_of_a_key_for_which_the_function_raises() -> None:
    def refuse(key: bytes) -> int:
        raise ValueError(key)

    refused = Remembering(refuse, 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="b'a'"):
            refused[b"a"]
    assert not refused


def test_it_never_holds_more_than_it_may_and_later_keys_are_remembered_too() -> None:
    lengths = Remembering(len, 8)
    for number in range(100):
        assert lengths[b"%d" % number] == len(str(number))
        assert b"%d" % number in lengths
        assert len(lengths) <= 8


def test_those_whose_keys_clients_choose_are_bounded() -> None:
    for memory, key in (
        (rules._authorities, b"%d.example"),
        (forwarded._nodes, b"%d.example"),
        (forwarded._hosts["http"], b"%d.example"),
        (forwarded._hosts["https"], b"%d.example"),
    ):
        for number in range(3000):
            memory[key % number]
        assert 0 < len(memory) <= 1024
        memory.clear()


def test_a_client_cannot_keep_the_names_of_others_from_being_remembered() -> None:
    known = rules._known_names
    for number in range(2 * rules._MAX_NAMES):
        rules._sort_out([(b"X-Junk-%d" % number, b"")])
        assert len(known) <= rules._MAX_NAMES
    assert rules._sort_out([(b"Accept", b"*/*")]) == ([(b"accept", b"*/*")], [])
    assert known[b"Accept"] == b"accept"
