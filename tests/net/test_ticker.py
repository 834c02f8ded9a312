"""The ticker looks when a deadline has come, not before and not much later, and otherwise never."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.http import on_trio
from trioasgi.net.ticker import NEXT_TICK, TICK, Ticker


class Waits:
    """Deadlines that are waited for. `looks` has the times of the ticker's looks, `met` each deadline's."""

    def __init__(self) -> None:
        self.ticker = Ticker()
        self.left: list[float] = []
        self.looks: list[float] = []
        self.met: dict[float, float] = {}

    def begin(self, deadlines: Iterable[float]) -> None:
        """Begin waits, as a stream does."""
        for deadline in deadlines:
            self.left.append(deadline)
            if deadline < self.ticker.earliest:
                self.ticker.note(deadline)

    def look(self, now: float) -> float:
        self.looks.append(now)
        self.met.update((deadline, now) for deadline in self.left if deadline <= now)
        self.left = [deadline for deadline in self.left if deadline > now]
        return min(self.left, default=math.inf)


@asynccontextmanager
async def waiting() -> AsyncIterator[Waits]:
    """Waits that a running ticker looks after."""
    waits = Waits()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.ticker.run, waits.look)
        yield waits
        nursery.cancel_scope.cancel()


@on_trio
async def test_it_never_looks_without_a_deadline() -> None:
    async with waiting() as waits:
        await trio.sleep(1000)
        waits.begin([math.inf])
        await trio.sleep(1000)
        assert waits.looks == []


@pytest.mark.parametrize("rested", [0, 1000])
@pytest.mark.parametrize("known", [(), (500.0,)])
@pytest.mark.parametrize("after", [0.0, TICK / 2, TICK, 1.0, 100.0])
@on_trio
async def test_a_deadline_is_met_at_most_a_tick_too_late_and_never_too_early(
    rested: float, known: tuple[float, ...], after: float
) -> None:
    async with waiting() as waits:
        await trio.sleep(rested)
        now = trio.current_time()
        waits.begin(now + each for each in known)
        await wait_all_tasks_blocked()
        waits.begin([now + after])
        await trio.sleep(1000)
        assert now + after <= waits.met[now + after] <= now + after + TICK
        assert all(waits.met[now + each] == now + each for each in known)


@on_trio
async def test_short_waits_do_not_put_a_deadline_off() -> None:
    async with waiting() as waits:
        deadline = trio.current_time() + 10
        waits.begin([deadline])
        for before in (0.1, 0.05):
            await trio.sleep_until(deadline - before)
            waits.begin([deadline - before / 2])
        await trio.sleep(10)
        assert waits.met[deadline] == deadline


@on_trio
async def test_a_deadline_that_is_noted_before_it_runs_is_met() -> None:
    waits = Waits()
    waits.begin([trio.current_time() + 5])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.ticker.run, waits.look)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert len(waits.met) == 1


@on_trio
async def test_many_deadlines_cost_a_look_a_tick() -> None:
    async with waiting() as waits:
        now = trio.current_time()
        waits.begin(now + 10 - each / 1000 for each in range(1000))  # each before all that it knows
        await trio.sleep(100)
        assert all(deadline <= at <= deadline + TICK for deadline, at in waits.met.items())
        assert len(waits.met) == 1000
        assert len(waits.looks) <= 1 / TICK + 2


@on_trio
async def test_a_look_that_is_wanted_soon_comes_after_a_tick_and_once() -> None:
    async with waiting() as waits:
        for _ in range(3):
            await trio.sleep(100)
            now = trio.current_time()
            waits.ticker.note(NEXT_TICK)
            await trio.sleep(100)
            assert waits.looks == [now + TICK]
            waits.looks.clear()


@on_trio
async def test_a_wait_that_a_look_begins_counts() -> None:
    begun: list[float] = []

    async with waiting() as waits:

        def look(now: float) -> float:
            if not begun:
                begun.append(now + 3)
                waits.begin(begun)
                return now + 50
            return waits.look(now)

        async with trio.open_nursery() as nursery:
            other = waits.ticker = Ticker()
            nursery.start_soon(other.run, look)
            waits.begin([trio.current_time() + 1])
            await trio.sleep(2)
            assert other.earliest == begun[0]
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert waits.met[begun[0]] == begun[0]
