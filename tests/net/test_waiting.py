"""Waits for which Trio is told once how to abort them, and those for which it is told each time."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, cast

import outcome
import pytest
import trio
import trio.testing
from trio.lowlevel import Abort, current_task, reschedule
from trio.testing import wait_all_tasks_blocked

from tests.support.sockets import SOON, run
from trioasgi.net import waiting

both_ways = pytest.mark.parametrize("are_values", [True, False])


class Waiter:
    """Waits again and again."""

    def __init__(self, are_values: bool) -> None:
        tell, self._wait_again = waiting.waits(are_values=are_values)
        self._told = tell(self._abort)
        self._task: trio.lowlevel.Task | None = None
        self.aborted = 0

    def _abort(self, _: object) -> Abort:
        self.aborted += 1
        return Abort.SUCCEEDED

    def wait(self) -> Awaitable[Any]:
        self._task = current_task()
        return self._wait_again(self._told)

    def wake(self, result: outcome.Outcome[str]) -> None:
        assert self._task is not None
        reschedule(self._task, result)


def test_this_trio_can_be_told_once() -> None:
    assert waiting.wait_again is waiting._wait_again


@both_ways
def test_each_wait_ends_in_its_own_way(are_values: bool) -> None:
    async def wait(waiter: Waiter) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            try:
                ends.append(await waiter.wait())
            except ZeroDivisionError:
                ends.append("failed")
        if scope.cancelled_caught:
            ends.append("cancelled")

    async def main() -> None:
        waiter, other = Waiter(are_values), Waiter(are_values)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, other)
            await wait_all_tasks_blocked()
            for end in ("woken", "cancelled", "failed", "woken"):
                nursery.start_soon(wait, waiter)
                await wait_all_tasks_blocked()
                match end:
                    case "woken":
                        waiter.wake(outcome.Value("woken"))
                    case "cancelled":
                        scopes[-1].cancel()
                    case _:
                        waiter.wake(outcome.Error(ZeroDivisionError()))
                await wait_all_tasks_blocked()
            assert ends == ["woken", "cancelled", "failed", "woken"]
            assert (waiter.aborted, other.aborted) == (1, 0)
            scopes[0].cancel()
        assert (waiter.aborted, other.aborted) == (1, 1)

    scopes: list[trio.CancelScope] = []
    ends: list[object] = []
    run(main, SOON)


def test_what_another_loop_throws_into_a_wait_removes_its_note() -> None:
    async def main() -> None:
        waiter = Waiter(are_values=True)
        tasks = waiting.WaitingTasks()
        for wait in (waiter.wait(), tasks.park(), waiting.Happening().wait()):
            coroutine = cast("Coroutine[Any, Any, None]", wait)
            coroutine.send(None)
            with pytest.raises(ZeroDivisionError):
                coroutine.throw(ZeroDivisionError())
        assert waiter.aborted == 1
        assert len(tasks) == 0
        tasks.wake_all()
        await trio.lowlevel.checkpoint()

    run(main, SOON)


def test_all_who_wait_are_woken_together_and_a_cancelled_one_is_not() -> None:
    async def main() -> None:
        tasks, happening = waiting.WaitingTasks(), waiting.Happening()
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0):
                await tasks.park()
            assert len(tasks) == 0
            for _ in range(3):
                nursery.start_soon(tasks.park)
                nursery.start_soon(happening.wait)
            await wait_all_tasks_blocked()
            assert len(tasks) == 3
            tasks.wake_all()
            assert len(tasks) == 0
            happening.set()
        with trio.testing.assert_checkpoints():
            await happening.wait()

    run(main, SOON)
