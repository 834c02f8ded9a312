"""Long steps take turns: one in each round of the scheduler."""

from __future__ import annotations

import trio

from tests.support.http import on_trio
from trioasgi.net.turns import long_steps, take_long_step, wait_for_long_step


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def steps(count: int, taken: list[int], rounds: Rounds) -> None:
    """Take so many long steps; notes in which rounds."""
    for _ in range(count):
        await wait_for_long_step()
        taken.append(rounds.count)


@on_trio
async def test_no_round_has_two_long_steps() -> None:
    rounds, taken = Rounds(), list[int]()
    trio.lowlevel.add_instrument(rounds)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(steps, 4, taken, rounds)
    trio.lowlevel.remove_instrument(rounds)
    assert len(taken) == 200
    assert len(set(taken)) == 200
    assert rounds.count < 210, "no round need go by without one"


@on_trio
async def test_everybody_comes_to_their_turn_before_anybody_does_again() -> None:
    async def take(name: int) -> None:
        for _ in range(3):
            await wait_for_long_step()
            order.append(name)

    order = list[int]()
    async with trio.open_nursery() as nursery:
        for name in range(10):
            nursery.start_soon(take, name)
    assert len(order) == 30
    assert order[:10] == order[10:20] == order[20:]


@on_trio
async def test_a_turn_that_is_cancelled_is_taken_all_the_same() -> None:
    async def take() -> None:
        await wait_for_long_step()
        taken.append(1)

    taken = list[int]()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(take)
        nursery.cancel_scope.cancel()
    await take()
    assert len(taken) == 4


def test_a_run_that_ends_leaves_nothing_to_the_next() -> None:
    for _ in range(2):
        trio.run(wait_for_long_step)


# Turns that are taken without a wait


class Told(Rounds):
    """Tells of them as the hub does."""

    def after_io_wait(self, timeout: float) -> None:
        long_steps().is_free = True


@on_trio
async def test_a_turn_that_nobody_has_is_taken_at_once() -> None:
    async def take(at_once: bool) -> None:
        for _ in range(10):
            await trio.lowlevel.checkpoint()
            if not (at_once and take_long_step()):
                await wait_for_long_step()
            taken.append(rounds.count)

    rounds, taken = Told(), list[int]()
    trio.lowlevel.add_instrument(rounds)
    await trio.lowlevel.checkpoint()
    before = rounds.count
    assert take_long_step()
    assert not take_long_step()
    assert rounds.count == before
    await wait_for_long_step()
    assert not take_long_step(), "the turn of this round is taken"
    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(take, index % 2 == 0)
    trio.lowlevel.remove_instrument(rounds)
    assert len(taken) == len(set(taken)) == 200


@on_trio
async def test_where_nobody_tells_of_the_rounds_a_turn_is_waited_for() -> None:
    assert not take_long_step()
    await wait_for_long_step()
    await trio.lowlevel.checkpoint()
    assert not take_long_step()
