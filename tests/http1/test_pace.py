"""`--limit-body-rate` with a loop that is late."""

from __future__ import annotations

import itertools
import math

import pytest

from trioasgi.http1.pace import Pace

RATE = 1000


def serve(pace: Pace, pieces: list[tuple[float, int, float]]) -> float:
    """Note pieces, each with the seconds for which it was waited, its size, and for how many more the server
    was late. Return how many seconds they took in all until the pace had no patience left.
    """
    now = 0.0
    for waited, size, late in pieces:
        if pace.patience <= 0:
            return now
        began, deadline = now, now + min(pace.patience, waited if late else math.inf)
        now += waited + late
        pace.note(size, began, now, deadline)
    return math.inf


@pytest.mark.parametrize("late", [0.05, 0.3, 3.0])
def test_a_slow_client_is_bounded_also_if_the_server_is_always_late(late: float) -> None:
    """Each piece comes behind the deadline of its wait, but brings hardly any time."""
    pieces = itertools.repeat((0.01, 1, late), 10_000)
    assert serve(Pace(RATE), [*pieces]) < 2 * Pace.GRACE + 2 * late


@pytest.mark.parametrize("late", [0.3, 50.0])
def test_a_client_that_sends_fast_enough_is_served_however_late_the_server_is(late: float) -> None:
    pieces = itertools.repeat((1.0, math.ceil(RATE * (1 + late)), late), 1000)
    assert serve(Pace(RATE), [*pieces]) == math.inf


def test_being_late_once_costs_a_client_nothing() -> None:
    pace = Pace(RATE)
    pace.note(0, began=0, now=51, deadline=1)
    assert pace.patience == Pace.GRACE - 1


def test_the_client_pays_for_a_late_wait_soon_after_another() -> None:
    pace = Pace(RATE)
    pace.note(0, began=0, now=1.5, deadline=1)
    pace.note(0, began=1.5, now=3, deadline=2)
    assert pace.patience == Pace.GRACE - 1 - 1.5


def test_time_for_which_several_tasks_of_a_call_wait_counts_once() -> None:
    pace = Pace(RATE)
    for second in range(100):
        for _ in range(2):
            pace.note(RATE // 2, began=second, now=second + 1, deadline=math.inf)
    assert pace.patience == Pace.GRACE
