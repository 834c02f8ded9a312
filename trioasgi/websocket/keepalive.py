"""The worker's one clock for WebSocket sessions: pings, their timeouts, and reading while an application does
not.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Protocol

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.net.ticker import NEXT_TICK, Ticker
from trioasgi.tasks import report_started, start_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("trioasgi")


class TickedSession(Protocol):
    """What a keepalive needs of a session."""

    def on_tick(self, now: float) -> float:
        """Do what is due at `now`, in seconds of `trio.current_time()`. Return when something will be due
        next: `math.inf` for never, `NEXT_TICK` for the next tick. If that changes, the session notes it with
        `Keepalive.ticker`.
        """


class Keepalive:
    """Calls `on_tick` of every open session of a worker, from one task.

    `keep_ticking()` must be running in the same Trio run. It sleeps while nothing is due of any session.
    """

    def __init__(self) -> None:
        self._sessions: set[TickedSession] = set()
        self.ticker = Ticker()
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: TickedSession) -> None:
        """Begin to tick for `session`."""
        self._sessions.add(session)
        self.ticker.note(NEXT_TICK)

    def discard(self, session: TickedSession) -> None:
        """Stop ticking for `session`."""
        self._sessions.discard(session)

    def start(self, function: Callable[[], Awaitable[None]]) -> bool:
        """Run `function` for one session in a task of its own. False if `keep_ticking()` has ended."""
        if self._nursery is None:
            return False
        start_soon(self._nursery, _isolated, function)
        return True

    @enable_ki_protection  # the nursery that it opens must end
    async def keep_ticking(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                report_started(task_status)
                await self.ticker.run(self._look_after_all)
            finally:
                self._nursery = None

    def _look_after_all(self, now: float) -> float:
        return min([session.on_tick(now) for session in tuple(self._sessions)], default=math.inf)


async def _isolated(function: Callable[[], Awaitable[None]]) -> None:
    try:
        await function()
    except Exception:
        # Only this session fails. The task of its connection will find it closed.
        logger.exception("a WebSocket session failed; the others go on")
