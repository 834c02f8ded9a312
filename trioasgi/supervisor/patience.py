"""Deadlines of this process that hardly run while it is suspended (SIGSTOP, a machine that sleeps).

Trio's clock goes on then, and all deadlines have passed when the process wakes, before it has read what
happened in time.
"""

from __future__ import annotations

import trio

_STEPS = 4
"""A deadline is counted in at least so many steps."""
_STEP = 1.0
"""Seconds of the longest step. Who wakes later than that was suspended; who wakes less late had no turn."""


async def cancel_after(scope: trio.CancelScope, seconds: float) -> None:
    """Cancel `scope` after so many seconds. A step in which this process was suspended counts as one step: it
    may have run for as long before, and suspensions that follow one another must not put this off for ever.
    """
    step = min(_STEP, seconds / _STEPS)
    left = seconds
    while left > 0:
        began, length = trio.current_time(), min(step, left)
        await trio.sleep(length)
        took = trio.current_time() - began
        left -= took if took < length + _STEP else length
    scope.cancel()
