"""Connections before their protocol: they read a PROXY header, or do the TLS handshake.

A server that drains waits for their first requests, but not for silent clients. `close_silent` closes those
whose client has sent nothing for a second. It tells them from those that wait for the server: a loop that was
blocked, or a queue of handshakes, is no fault of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trioasgi.http1.settings import FIRST_REQUEST_SECONDS
from trioasgi.net.turns import long_steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Set

LOOK: Final = 0.25
"""Seconds between two looks at them."""


class Preparation:
    """A connection before its protocol. `close` closes its stream.

    Its task is known to have done something if it has yielded since: the scheduler counts that.
    """

    __slots__ = ("_since", "_steps", "_task", "close")

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self.close = close
        self._task: trio.lowlevel.Task | None = None
        self._steps = -1  # of the task, at the last look
        self._since = 0.0

    def begin(self) -> None:
        """Note that the current task prepares the connection."""
        self._task = trio.lowlevel.current_task()

    def end(self) -> None:
        """Note that it is prepared, or closed."""
        self._task = None  # that refers to this

    @property
    def has_moved(self) -> bool:
        """Has its task run since the last look, or ended?"""
        return self._task is None or self._task._schedule_points != self._steps

    def is_silent(self, now: float, queued: Set[trio.lowlevel.Task]) -> bool:
        """Look at it. Has it waited for its client for a second? The tasks in `queued` wait for others."""
        task = self._task
        if task is None:
            return False
        if self.has_moved or task in queued:
            self._steps, self._since = task._schedule_points, now
        return now - self._since >= FIRST_REQUEST_SECONDS


async def close_silent(preparations: Callable[[], Iterable[Preparation]]) -> None:
    """Close those whose client is silent, until cancelled. `preparations` returns those that there are."""
    while True:
        now, queued = trio.current_time(), long_steps().queued()
        for preparation in [each for each in preparations() if each.is_silent(now, queued)]:
            # Its bytes, or its turn, may have come in this round or the next.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            if not preparation.has_moved:
                await preparation.close()
            del preparation
        await trio.sleep(LOOK)
