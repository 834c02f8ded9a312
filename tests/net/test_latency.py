"""How late the loop is: when it becomes too late, and when it is in time again."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from trioasgi.net.latency import (
    BEGIN_AFTER,
    END_AFTER,
    PERIOD,
    SMOOTHING,
    TRANSITIONS,
    Load,
    LoopLatency,
)

LIMIT = 0.1


class Loop:
    """A `LoopLatency` with its own time, in a run of Trio whose time stands still."""

    def __init__(self) -> None:
        self.latency = LoopLatency(LIMIT)
        self.now = 0.0
        self.seen: list[Load] = []

    def late(self, late: float, seconds: float) -> None:
        """Let every timer be late by `late`, for so long."""
        end = self.now + seconds
        while self.now < end:
            self.now += PERIOD + late
            self.latency.note(late, PERIOD + late, self.now)
            if self.latency.load is not (self.seen or [Load.IN_TIME])[-1]:
                self.seen.append(self.latency.load)


def in_a_run(test: object) -> object:
    def run() -> None:
        async def main() -> None:
            test()  # type: ignore[operator]
            await trio.lowlevel.checkpoint()

        trio.run(main, clock=trio.testing.MockClock())

    run.__name__ = test.__name__  # type: ignore[attr-defined]
    return run


def test_each_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(Load)


@in_a_run
def test_it_is_late_after_some_time_above_the_limit_and_in_time_after_more_below() -> None:
    loop = Loop()
    loop.late(1.2 * LIMIT, BEGIN_AFTER)
    assert not loop.latency.is_late  # it has taken a moment to rise
    loop.late(1.2 * LIMIT, BEGIN_AFTER + SMOOTHING)
    assert loop.latency.is_late
    loop.late(LIMIT / 2, 10.0)  # what it is while requests are turned away
    assert loop.latency.load is Load.LATE
    loop.late(0.0, END_AFTER)
    assert loop.latency.is_late
    loop.late(0.0, END_AFTER)
    assert not loop.latency.is_late
    assert loop.seen == [Load.RISING, Load.LATE, Load.FALLING, Load.IN_TIME]


@in_a_run
def test_a_pause_alone_does_not_make_it_late() -> None:
    loop = Loop()
    loop.late(0.0, 1.0)
    loop.late(5.0, 1.0)  # one measurement
    loop.late(0.0, 1.0)
    assert loop.seen == [Load.RISING, Load.IN_TIME]


@in_a_run
def test_around_the_limit_it_does_not_flap() -> None:
    loop = Loop()
    for _ in range(50):
        loop.late(1.5 * LIMIT, 0.4)
        loop.late(0.1 * LIMIT, 0.4)
    assert loop.seen.count(Load.IN_TIME) == 0
    assert loop.latency.is_late


@in_a_run
def test_a_moment_of_rest_does_not_end_it() -> None:
    loop = Loop()
    loop.late(2 * LIMIT, 1.0)
    loop.late(0.0, 0.8)
    loop.late(LIMIT, 0.3)
    loop.late(0.0, 0.8)
    assert loop.latency.is_late


def test_a_late_loop_has_time_for_half_the_limit_in_each_round(caplog: pytest.LogCaptureFixture) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def take_time() -> None:
        for _ in range(20):
            clock.jump(2 * LIMIT)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        latency = LoopLatency(LIMIT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(latency.watch)
            await trio.sleep(1.0)
            assert latency.has_time()
            clock.jump(LIMIT)
            assert latency.has_time()  # a loop in time takes on everything
            await take_time()
            assert latency.is_late
            for _ in range(3):
                await trio.lowlevel.checkpoint()
                assert latency.has_time()
                clock.jump(0.4 * LIMIT)
                assert latency.has_time()
                clock.jump(0.2 * LIMIT)
                assert not latency.has_time()
            await trio.lowlevel.checkpoint()
            clock.jump(LIMIT)  # as if the process had waited for a processor
            assert latency.has_time()  # one at least
            assert not latency.has_time()
            latency.turned_away += 7
            await trio.sleep(5.0)
            assert not latency.is_late
            with pytest.raises(KeyError):
                trio.lowlevel.remove_instrument(latency._rounds)  # it is gone already
            await take_time()
            assert latency.is_late
            nursery.cancel_scope.cancel()

    with caplog.at_level(logging.INFO, "trioasgi"):
        trio.run(main, clock=clock)
    begins, ends, begins_again, ends_with_the_server = [record.message for record in caplog.records]
    assert begins == begins_again.replace(begins_again.split()[5], begins.split()[5])
    assert "--shed-latency 0.1" in begins
    assert " 7 requests were answered 503" in ends
    assert " 0 requests were answered 503" in ends_with_the_server
