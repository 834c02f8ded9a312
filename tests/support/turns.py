"""How often others come to their turn while something goes on that never has to wait."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio


class Turns:
    """Counts the rounds of the scheduler in which another task has run."""

    def __init__(self) -> None:
        self.count = 0

    async def take(self) -> None:
        """Take every turn that there is, until cancelled."""
        while True:
            self.count += 1
            await trio.lowlevel.checkpoint()


@contextlib.asynccontextmanager
async def counted_turns() -> AsyncIterator[Turns]:
    """Count for as long as the block lasts. A clock that jumps stands still meanwhile."""
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        yield turns
        nursery.cancel_scope.cancel()
