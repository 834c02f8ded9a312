"""The suite's own check that states change as their tables say."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import pytest

from tests.support.transitions import checked


class State(Enum):
    NEW = auto()
    OPEN = auto()
    OVER = auto()


TABLE = {
    State.NEW: frozenset({State.OPEN}),
    State.OPEN: frozenset({State.OVER}),
    State.OVER: frozenset[State](),
}


def make() -> Any:
    """A class of its own for each test, as a check cannot be taken back."""

    class Checked:
        __slots__ = ("state",)

        def __init__(self, state: State = State.NEW) -> None:
            self.state = state

    return Checked


def test_what_the_table_allows_passes() -> None:
    kind = make()
    assert checked(kind, "state", TABLE)
    one, other = kind(), kind(State.OPEN)
    for state in (State.NEW, State.OPEN, State.OPEN, State.OVER):
        one.state = state
        assert one.state is state
    assert other.state is State.OPEN


@pytest.mark.parametrize(("before", "after"), [(State.NEW, State.OVER), (State.OVER, State.OPEN)])
def test_what_the_table_lacks_fails_and_changes_nothing(before: State, after: State) -> None:
    kind = make()
    checked(kind, "state", TABLE)
    one = kind(before)
    with pytest.raises(
        AssertionError, match=rf"Checked.state: State.{before.name} became State.{after.name}"
    ):
        one.state = after
    assert one.state is before


def test_a_second_check_of_the_same_is_a_mistake() -> None:
    kind = make()
    checked(kind, "state", TABLE)
    with pytest.raises(TypeError, match="checked already"):
        checked(kind, "state", TABLE)


def test_a_compiled_class_is_left_alone() -> None:
    compiled = type("Compiled", (), {"state": vars(int)["real"]})  # a native class has such descriptors
    assert not checked(compiled, "state", TABLE)
