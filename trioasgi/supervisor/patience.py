"""Deadlines of this process that do not run while it is suspended (SIGSTOP, a machine that sleeps).

Trio's clock goes on then, and all deadlines have passed when the process wakes, before it has read what
happened in time.
"""

from __future__ import annotations

import trio

_STEPS = 4
"""A deadline is counted in at least so many steps."""
_LONGEST_STEP = 1.0
"""Seconds."""


async def cancel_after(scope: trio.CancelScope, seconds: float) -> None:
    """Cancel `scope` after so many seconds. A step that took more than twice its time does not count."""
    step = min(_LONGEST_STEP, seconds / _STEPS)
    left = seconds
    while left > 0:
        length = min(step, left)
        began = trio.current_time()
        await trio.sleep(length)
        if trio.current_time() - began < 2 * step:
            left -= length
    scope.cancel()
