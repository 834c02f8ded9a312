"""What a call of the application has left open in its task: nurseries and cancel scopes around a `yield`.

The usual case is an async generator with a nursery (an AnyIO task group) around its `yield`, whose reader
stops early, as `async for` does when `send()` raises. The generator stays suspended, and its nursery stays
open in the task that iterated over it. Trio ends such a task with RuntimeError("Nursery stack corrupted")
after its coroutine has returned, where nothing within the task can catch it: the error reaches the task's own
nursery, and with it all other connections.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import trio

logger = logging.getLogger("trioasgi")

_ADVICE: Final = (
    "%s: %s has ended and left a nursery, a task group or a cancel scope open in its task; it is cancelled. "
    "An async generator with one of them around its 'yield' does so when its reader stops early. The cure: "
    "'async with contextlib.aclosing(generator) as items: async for item in items: ...'; or run the nursery "
    "outside of the generator, and pass the items through a memory channel"
)


def abandon_nurseries(task: trio.lowlevel.Task) -> bool:
    """Cancel the nurseries that are open in `task`, and have Trio not wait for them any more; were there any?

    To be called when the call of the application is over, before the task waits again: a generator that is
    collected meanwhile is closed by a task of Trio's, which would wake the wrong task.

    It does what Trio does with the open nurseries of a task that ends (`task_exited`), but raises no error.
    """
    # Trio has no public way to end a nursery but from the block that opened it, which nobody can reach.
    nurseries = task._child_nurseries
    if not nurseries:
        return False
    for nursery in nurseries:
        nursery.cancel_scope.cancel()
        nursery._closed = True
    nurseries.clear()
    return True


def report_left_open(who: str, what: str) -> None:
    """Log that `what`, which ran for `who`, has left something open, and how to mend it."""
    logger.error(_ADVICE, who, what)
