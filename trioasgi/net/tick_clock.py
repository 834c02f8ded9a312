"""One clock for waits that must not end only because the loop was late.

When the loop is blocked, the deadline of a cancel scope may pass before a task can take what has come for it
meanwhile. This clock counts its own ticks instead, and time for which the loop was blocked is none of them.

It serves what happens off the readiness hub or before it. A send there needs it for two more reasons: it does
not tell when its peer takes a part, which begins the time anew; and when cancelled it has sent any part of
its bytes, and TLS cannot go on behind that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from trioasgi.net.ticker import TICK

if TYPE_CHECKING:
    from types import TracebackType


class Waiter(Protocol):
    """Waits from `TickClock.add` to `discard`."""

    def note_tick(self, seconds: float) -> None:
        """So many seconds have passed. It must not raise anything: that would end the run."""


class TickClock:
    """Ticks while anything waits. Its task is one of the system's, and ends a tick after the last wait."""

    __slots__ = ("_waiters", "is_ticking")

    def __init__(self) -> None:
        self._waiters: set[Waiter] = set()
        self.is_ticking = False

    def add(self, waiter: Waiter) -> None:
        """Begin to tick for `waiter`. The first tick may come at once."""
        self._waiters.add(waiter)
        if not self.is_ticking:
            self.is_ticking = True
            trio.lowlevel.spawn_system_task(self._tick)

    def discard(self, waiter: Waiter) -> None:
        """Stop ticking for `waiter`."""
        self._waiters.discard(waiter)

    async def _tick(self) -> None:
        # It sleeps first: most waits are over by then, and need no task of their own.
        while self.is_ticking:
            await trio.sleep(TICK)
            for waiter in tuple(self._waiters):
                waiter.note_tick(TICK)
            self.is_ticking = bool(self._waiters)


_clock: Final[trio.lowlevel.RunVar[TickClock]] = trio.lowlevel.RunVar("_clock")


def tick_clock() -> TickClock:
    """The clock of this run."""
    try:
        return _clock.get()
    except LookupError:
        clock = TickClock()
        _clock.set(clock)
        return clock


class TickLimit:
    """Cancels its `with` block after so many seconds, as `trio.move_on_after` does, but counts ticks: at most
    two of them too late.
    """

    __slots__ = ("_left", "_scope")

    def __init__(self, seconds: float) -> None:
        self._left = seconds + TICK  # the first tick may come at once
        self._scope = trio.CancelScope()

    @property
    def is_over(self) -> bool:
        """Has the limit ended the block?"""
        return self._scope.cancelled_caught

    def __enter__(self) -> TickLimit:
        self._scope.__enter__()
        tick_clock().add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        tick_clock().discard(self)
        return self._scope.__exit__(kind, exc, traceback)

    def note_tick(self, seconds: float) -> None:
        """As of `Waiter`."""
        self._left -= seconds
        if self._left <= 0:
            self._scope.cancel()
