"""The worker's one clock for WebSocket sessions: pings, their timeouts, and reading while an application does
not.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger("trioasgi")

TICK: Final = 0.25
"""Seconds between two ticks. A ping or a timeout may come so much too late."""


class TickedSession(Protocol):
    """What a keepalive needs of a session."""

    def on_tick(self, now: float) -> None:
        """Do what is due at `now`, in seconds of `trio.current_time()`."""


class Keepalive:
    """Calls `on_tick` of every open session of a worker, from one task.

    `keep_ticking()` must be running in the same Trio run. It sleeps while there are no sessions.
    """

    def __init__(self) -> None:
        self._sessions: set[TickedSession] = set()
        self._some = trio.Event()
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: TickedSession) -> None:
        """Begin to tick for `session`."""
        self._sessions.add(session)
        self._some.set()

    def discard(self, session: TickedSession) -> None:
        """Stop ticking for `session`."""
        self._sessions.discard(session)

    def start(self, function: Callable[[], Awaitable[None]]) -> bool:
        """Run `function` for one session in a task of its own. False if `keep_ticking()` has ended."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(_isolated, function)
        return True

    async def keep_ticking(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await self._tick()
            finally:
                self._nursery = None

    async def _tick(self) -> None:
        while True:
            if not self._sessions:
                self._some = trio.Event()
                await self._some.wait()
            await trio.sleep(TICK)
            self._look_after_all(trio.current_time())

    def _look_after_all(self, now: float) -> None:
        # A function of its own: in `_tick`, the loop variable would keep the last session alive during the
        # sleep.
        for session in tuple(self._sessions):
            session.on_tick(now)


async def _isolated(function: Callable[[], Awaitable[None]]) -> None:
    try:
        await function()
    except Exception:
        # Only this session fails. The task of its connection will find it closed.
        logger.exception("a WebSocket session failed; the others go on")
