"""The state of a response by itself: its phases, and its Content-Length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioasgi.errors import BodyLengthError
from trioasgi.http.response import TRANSITIONS, Response, ResponsePhase


def response(length: int | None) -> Response:
    made = Response()
    made.phase = ResponsePhase.STARTED
    made.status, made.sent, made._left = 200, 0, length
    return made


@given(pieces=st.lists(st.integers(0, 100), min_size=1), off=st.integers(-50, 50))
def test_a_body_is_held_to_its_length(pieces: list[int], off: int) -> None:
    length = max(0, sum(pieces) + off)
    made = response(length)
    given = 0
    for number, size in enumerate(pieces, 1):
        more = number < len(pieces)
        if given + size > length or (not more and given + size < length):
            with pytest.raises(BodyLengthError):
                made.count(size, more)
            assert made.sent == given  # what is refused is not counted
            return
        made.count(size, more)
        given += size
    assert made.sent == given == length


def test_a_body_without_a_length_may_have_any() -> None:
    made = response(None)
    for size in (5, 0, 7):
        made.count(size, more=True)
    made.count(0, more=False)
    assert made.sent == 12


def test_what_is_said_of_a_wrong_length() -> None:
    made = response(5)
    with pytest.raises(BodyLengthError, match="2 bytes longer than its Content-Length"):
        made.count(7, more=True)
    with pytest.raises(BodyLengthError, match="ended 3 bytes before its Content-Length of 5"):
        made.count(2, more=False)


def test_phases_in_which_nothing_more_can_be_given() -> None:
    over = {ResponsePhase.COMPLETE, ResponsePhase.REFUSED, ResponsePhase.FAILED}
    can_fail = {ResponsePhase.NOT_STARTED, ResponsePhase.STARTED}
    for phase in ResponsePhase:
        made = Response()
        made.phase = phase
        assert made.over == (phase in over)
        assert made.can_fail == (phase in can_fail)
    assert set(TRANSITIONS) == set(ResponsePhase)
    assert not any(can_fail.intersection(TRANSITIONS[phase]) for phase in over)
