"""Cancels at a chosen step of the scheduler, and counts the tasks that are left."""

from __future__ import annotations

import trio

from trioasgi.net.tick_clock import tick_clock


def living_tasks() -> int:
    """How many tasks there are, without the one of the write clock, which ends by itself."""
    return trio.lowlevel.current_statistics().tasks_living - tick_clock().is_ticking


class CancelAfter(trio.abc.Instrument):
    """Cancels `scope` after so many steps of all tasks but the client's."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self._left = steps
        self._scope = scope
        self.client: trio.lowlevel.Task | None = None

    @property
    def is_due(self) -> bool:
        """Has it cancelled?"""
        return self._left <= 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is not self.client and self._left > 0:
            self._left -= 1
            if self.is_due:
                self._scope.cancel()
