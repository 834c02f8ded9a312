"""How often a task lets others come to their turn while it does something that never has to wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


class Turns(trio.abc.Instrument):
    """Counts the steps of a task that have ended: after each of them others can run."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.count = 0
        self._task = task

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.count += 1


@contextlib.contextmanager
def counted_turns() -> Iterator[Turns]:
    """Count the turns that the task which runs now leaves to others, for as long as the block lasts."""
    turns = Turns(trio.lowlevel.current_task())
    trio.lowlevel.add_instrument(turns)
    try:
        yield turns
    finally:
        trio.lowlevel.remove_instrument(turns)


class BusyTask:
    """Counts the turns of a task that always wants to run."""

    def __init__(self) -> None:
        self.taken = 0

    async def run(self) -> None:
        while True:
            self.taken += 1
            await trio.lowlevel.checkpoint()
