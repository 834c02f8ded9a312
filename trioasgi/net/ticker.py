"""One task looks after the deadlines of many waits, and rests while there are none.

A cancel scope for each wait would cost more than the wait. So a deadline is a number that the waiting object
keeps, and the ticker knows only the earliest of all. When that has come it looks at all objects, and learns
the next one. Most waits end before their deadline, and the next wait has a later one: then the ticker need
not know. Whoever begins to wait compares its deadline with `earliest`, and calls `note` if it comes before.

Two looks are at least a `TICK` apart. So many deadlines that come one after the other cost few looks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.home import check_home

if TYPE_CHECKING:
    from collections.abc import Callable

TICK: Final = 0.25
"""Seconds between two looks. A deadline is met at most so much too late, and never too early."""

NEXT_TICK: Final = -math.inf
"""As a deadline: look a `TICK` from now."""


class Ticker:
    """Calls a function when the earliest deadline has come. `run()` must be running in the same Trio run."""

    __slots__ = ("_home", "_rest", "earliest")

    def __init__(self) -> None:
        self.earliest = math.inf
        """The earliest deadline that the ticker knows, in seconds of `trio.current_time()`."""
        self._home: trio.lowlevel.TrioToken | None = None  # the run of `run()`
        self._rest = trio.CancelScope()

    def note(self, deadline: float) -> None:
        """A wait begins whose `deadline` is before `earliest`."""
        if self._home is not None:
            check_home(self._home)
        self.earliest = deadline
        at = max(deadline, trio.current_time() + TICK)
        if at < self._rest.deadline:
            self._rest.deadline = at

    async def run(self, look: Callable[[float], float]) -> None:
        """Call `look` with the time when a deadline has come, until cancelled. It does what is due, and
        returns the earliest deadline that is left, `math.inf` if there is none.
        """
        self._home = trio.lowlevel.current_trio_token()
        while True:
            with self._rest:
                await trio.sleep_forever()
            self._rest = trio.CancelScope()
            self.earliest = math.inf
            left = look(trio.current_time())
            if left < self.earliest:  # `look` may have begun waits too
                self.note(left)
