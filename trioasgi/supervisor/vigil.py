"""Watches one worker: its start-up, its heart and its end have deadlines. After them the process is killed.

A worker reports heartbeats from its loop, so their absence tells of a loop that is blocked. This process, or
the worker, may have been suspended (the machine slept, SIGSTOP). So the silence of a worker is not measured
by a clock: steps of this process are counted, and however long a suspension lasts, it is one step. The time
that a worker has for its import hardly runs then either (`patience`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from trioasgi.tasks import start_soon

from .messages import heartbeat_interval
from .patience import cancel_after

if TYPE_CHECKING:
    from trioasgi.config import Config

MARGIN = 3.0
"""Seconds from each deadline that a worker watches itself until the supervisor kills it."""

Killing = Callable[[str], None]
"""Ends the process at once, and logs why."""


class Vigil:
    """The signs of life of one worker, and the deadlines that they are held against."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._silence = 0.0
        self.last_sign = trio.current_time()
        """When the worker has reported last, in seconds of `trio.current_time()`."""
        self.import_limited = trio.Event()
        """Loading the application has a deadline: other workers serve."""
        self.starting = trio.Event()
        """The application is loaded."""
        self.started = trio.Event()
        """The application's start-up is complete."""
        self.leaving = trio.Event()
        """The worker drains."""
        self.shuts_down = False
        """Has the application's lifespan begun to shut down?"""
        self.finished = trio.Event()
        """The server has ended, and the process is about to."""
        self._leaving_scope = trio.CancelScope()
        self._grace = 0.0

    @property
    def _step(self) -> float:
        """Seconds. Its config may be another one once it gets its order: a worker may begin as a standby."""
        return heartbeat_interval(self.config.timeout_worker)

    def note_sign(self) -> None:
        """The worker has reported something."""
        self.last_sign = trio.current_time()
        self._silence = 0.0

    async def count_silence(self) -> None:
        """Count the seconds since the worker's last report, until cancelled."""
        while True:
            step = self._step
            await trio.sleep(step)
            self._silence += min(step, self._step)  # a standby may have got its order meanwhile

    async def watch_import(self, kill: Callable[[str], None]) -> None:
        """Call `kill`, with the reason, for a worker that does not load its application in time, from when
        that was limited.
        """
        await self.import_limited.wait()
        timeout = self.config.timeout_startup
        async with trio.open_nursery() as nursery:
            start_soon(nursery, cancel_after, nursery.cancel_scope, timeout)
            await self.starting.wait()
            nursery.cancel_scope.cancel()
        if not (self.starting.is_set() or self.leaving.is_set() or self.finished.is_set()):
            kill(f"did not load the application within {timeout:g} s (--timeout-startup)")

    async def watch_startup(self, kill: Callable[[str], None]) -> None:
        """Call `kill`, with the reason, for a worker whose start-up blocks its loop. Otherwise the loop
        watches the deadline.
        """
        await self.starting.wait()
        timeout = self.config.timeout_startup
        with trio.move_on_after(timeout + MARGIN):
            await self.started.wait()
        await trio.sleep(self._step)
        while not (self.started.is_set() or self.leaving.is_set() or self.finished.is_set()):
            if self._silence >= MARGIN:
                kill(
                    f"did not complete its start-up within {timeout:g} s and {MARGIN:g} s more "
                    "(--timeout-startup): it blocks the loop"
                )
                return
            await trio.sleep(MARGIN)

    async def wait_silent(self) -> float:
        """Return when a worker that has started, and does not leave, has been silent for too long: with the
        seconds. If it leaves, this waits for ever.
        """
        await self.started.wait()
        timeout = self.config.timeout_worker
        while not self.leaving.is_set():
            if self._silence > timeout:  # the first step may have come right after the report
                return timeout
            await trio.sleep(self._step)
        await trio.sleep_forever()
        raise AssertionError  # not reached

    def begin_leaving(self, grace: float | None) -> None:
        """Let the worker end within `grace` seconds (None: those of the option) and a margin, unless it has
        less already.
        """
        grace = self.config.timeout_graceful_shutdown if grace is None else grace
        deadline = trio.current_time() + grace + MARGIN
        if deadline < self._leaving_scope.deadline:
            self._leaving_scope.deadline = deadline
            self._grace = grace
        self.leaving.set()

    async def watch_leaving(self, kill: Killing) -> None:
        """Kill a worker that does not end in time."""
        await self.leaving.wait()
        with self._leaving_scope:
            await self.finished.wait()
        limit = self._grace
        if not self.finished.is_set() and (self.shuts_down or self._silence < MARGIN):
            # If its loop runs, the application shuts down, or is about to. That has a deadline of its own.
            limit += self.config.timeout_shutdown
            with trio.move_on_after(self.config.timeout_shutdown):
                await self.finished.wait()
        if self.finished.is_set():
            await trio.sleep(MARGIN)
            kill("has stopped serving but does not end (is it waiting for a thread?)")
        else:
            kill(f"did not stop within {limit:g} s and {MARGIN:g} s more")
