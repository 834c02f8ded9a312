"""The signals of a supervisor, in a form that it can act on at once: without repeats.

::

    STOPPING          the first, and each that comes AGAIN_AFTER seconds later
    SIGHUP            held back until the first worker serves, and for a pause after the last one: several
                      that are held back become one. If the terminal was closed, it is no SIGHUP but a stop
    others            each

Each SIGHUP in the start, or soon after another, would replace workers that still start: a storm of them would
start processes without end, and no worker would ever serve.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.process.signals import AGAIN_AFTER, STOPPING, is_hang_up

if TYPE_CHECKING:
    from trioasgi.process.hang_up import Terminal

PAUSE: Final = 1.0
"""Seconds between two SIGHUPs that are acted on."""


class SteadySignals:
    """Made of the `signals` of `trio.open_signal_receiver`, and the `terminal` of the session."""

    def __init__(self, signals: AsyncIterator[int], terminal: Terminal) -> None:
        self._signals = signals
        self._terminal = terminal
        self._first_stop_at: float | None = None
        self._held: int | None = None
        """A SIGHUP that is held back."""
        self._free_at = math.inf
        """When a SIGHUP may be acted on."""
        self._scope = trio.CancelScope()
        self.hung_up_at = -math.inf
        """When a SIGHUP came because the terminal was closed, by the monotonic clock."""

    def begin_serving(self) -> None:
        """The first worker serves. To be called in the loop."""
        self._free_at = trio.current_time()
        if self._held is not None:
            self._scope.deadline = self._free_at

    async def bring(self, on_hang_up: Callable[[], None]) -> AsyncIterator[int]:
        """The numbers, without end. `on_hang_up` is called if the terminal was closed."""
        while True:
            self._scope = trio.CancelScope(deadline=math.inf if self._held is None else self._free_at)
            number: int | None = None
            with self._scope:
                number = await anext(self._signals)
            if number is None:
                assert self._held is not None
                number, self._held = self._held, None
                self._free_at = trio.current_time() + PAUSE
                yield number
            elif is_hang_up(number):
                if self._terminal.has_hung_up():
                    self.hung_up_at = time.monotonic()
                    on_hang_up()
                elif trio.current_time() < self._free_at:
                    self._held = number
                else:
                    self._free_at = trio.current_time() + PAUSE
                    yield number
            elif number not in STOPPING or self._counts():
                yield number

    def _counts(self) -> bool:
        """Does a signal that stops count? A terminal and a process manager may both send one."""
        now = trio.current_time()
        if self._first_stop_at is None:
            self._first_stop_at = now
            return True
        return now >= self._first_stop_at + AGAIN_AFTER


class NoSignals:
    """In place of `SteadySignals` where no signals are received: outside of the main thread."""

    def begin_serving(self) -> None:
        """See `SteadySignals`."""

    async def bring(self, _: Callable[[], None]) -> AsyncIterator[int]:
        """See `SteadySignals`: there are none."""
        await trio.sleep_forever()
        yield 0
