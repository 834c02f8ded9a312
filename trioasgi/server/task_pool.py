"""Tasks whose connection has ended wait here for another one.

To begin and end a task, and its cancel scope, costs Trio as much as half of a request costs the server. Where
each request comes on a connection of its own, one task serves many of them.

The next connection gets the task, a cancel scope that nothing has used, and a new context. A task in which a
call has left something ends instead: an open nursery or scope, or a lock, which Trio breaks at the end of the
task that holds it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from outcome import Value
from trio.lowlevel import Abort, current_task, enable_ki_protection, reschedule, wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Container
    from contextvars import Context

    from trio.lowlevel import RaiseCancelT, Task

T = TypeVar("T")

MOST_WAITING: Final = 64
"""So many wait at most; each holds 3 KB."""

WAITING_NAME: Final = "waits for a connection"
"""What Trio's task tree shows of them."""

# Trio has no public way to ask whether a task holds a lock.
_HOLDERS: Final[Container[Task]] = getattr(
    sys.modules.get("trio._core._parking_lot"), "GLOBAL_PARKING_LOT_BREAKER", ()
)


class TaskPool(Generic[T]):
    """Tasks that wait for work, such as a connection. At most `most` wait at once. Each work begins with the
    variables of `context`.
    """

    def __init__(self, context: Context, most: int = MOST_WAITING) -> None:
        self._context = context
        self._most = most
        self._waiting: list[Task] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @enable_ki_protection  # a task that is taken must be woken
    def give(self, work: T, name: str) -> bool:
        """Let a task that waits begin `work` in the next round of the scheduler, under this name. False if
        none waits.
        """
        if not self._waiting:
            return False
        task = self._waiting.pop()
        task.name = name
        reschedule(task, Value(work))
        return True

    @enable_ki_protection  # one that is noted must wait
    async def wait(self) -> T | None:
        """Wait for work. None: the task is not needed any more."""
        task = current_task()
        if len(self._waiting) >= self._most or task in _HOLDERS:
            return None
        task.name = WAITING_NAME
        task.context = self._context.copy()  # from its next step on: what waits must not hold the last one
        self._waiting.append(task)

        def leave(_: RaiseCancelT) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        return cast("T | None", await wait_task_rescheduled(leave))

    def end(self) -> None:
        """Let all that wait end. None waits from now on."""
        self._most = 0
        for task in self._waiting:
            reschedule(task, Value(None))
        self._waiting.clear()
