"""The states of slots and of the supervisor."""

from __future__ import annotations

import itertools

import pytest

from trioasgi.supervisor.slots import SLOT_TRANSITIONS, Slot, SlotState

ALL = list(itertools.product(SlotState, SlotState))
ALLOWED = [(before, after) for before in SlotState for after in SLOT_TRANSITIONS[before]]


@pytest.mark.parametrize(("before", "after"), ALLOWED)
def test_a_slot_follows_its_table(before: SlotState, after: SlotState) -> None:
    slot = Slot(1, state=before)
    slot.enter(after)
    assert slot.state is after


@pytest.mark.parametrize(("before", "after"), [pair for pair in ALL if pair not in ALLOWED])
def test_a_transition_that_is_not_in_the_table_is_an_error(before: SlotState, after: SlotState) -> None:
    slot = Slot(1, state=before)
    with pytest.raises(AssertionError):
        slot.enter(after)
    assert slot.state is before
