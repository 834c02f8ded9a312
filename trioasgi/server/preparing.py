"""Connections before their protocol: they read a PROXY header, or do the TLS handshake.

A server that drains waits for their first requests, but not for silent clients. `close_silent` closes those
whose client has sent nothing for a second. It tells them from those that wait for the server: a loop that was
blocked, or a queue of handshakes, is no fault of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.http1.settings import FIRST_REQUEST_SECONDS
from trioasgi.net.turns import long_steps
from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Set

LOOK: Final = 0.25
"""Seconds between two looks at them."""

_LOOKS: Final = round(FIRST_REQUEST_SECONDS / LOOK)
"""So many looks in a row find a silent one unchanged. They are counted, and not the seconds: there are none
while the loop is blocked.
"""

_ROUNDS: Final = 3
"""So many rounds of the scheduler pass before one is closed. Its bytes, or its turn, may have come in this
round or the next, or by the close of another.
"""


class Preparation(msgspec.Struct, eq=False):
    """A connection before its protocol.

    Its task is known to have done something if it has yielded since: the scheduler counts that.
    """

    close: Callable[[], Awaitable[None]]
    """Closes its stream."""
    task: trio.lowlevel.Task | None = None
    """What prepares it; None before that, and when it is prepared or closed: the task refers to this."""
    steps: int = -1
    """Those of the task, when it was last seen to have done something."""
    looks: int = 0
    """So many since then."""

    @property
    def has_moved(self) -> bool:
        """Has its task run since the last look, or ended?"""
        return self.task is None or self.task._schedule_points != self.steps

    def is_silent(self, queued: Set[trio.lowlevel.Task]) -> bool:
        """Look at it. Has it waited for its client for a second? The tasks in `queued` wait for others."""
        task = self.task
        if task is None:
            return False
        if self.has_moved or task in queued:
            self.steps, self.looks = task._schedule_points, 0
        else:
            self.looks += 1
        return self.looks >= _LOOKS


@enable_ki_protection  # the nursery that it opens must end
async def close_silent(preparations: Callable[[], Iterable[Preparation]]) -> None:
    """Close those whose client is silent, until cancelled. `preparations` returns those that there are."""
    async with trio.open_nursery() as nursery:  # one that takes long to close does not hold up the others
        while True:
            queued = long_steps().queued()
            for preparation in [each for each in preparations() if each.is_silent(queued)]:
                for _ in range(_ROUNDS):
                    await trio.lowlevel.checkpoint()
                if not preparation.has_moved:
                    preparation.task = None  # also if its close fails
                    start_soon(nursery, preparation.close)
                del preparation
            await _sleep_until_next_look()


async def _sleep_until_next_look() -> None:
    """Sleep for `LOOK`, and again if the loop was blocked: what has come meanwhile may still be on its way
    through other tasks.
    """
    is_late = True
    while is_late:
        due = trio.current_time() + LOOK
        await trio.sleep_until(due)
        is_late = trio.current_time() > due + LOOK
