"""The drain of all workers, as everything stops: first of those that do not serve yet.

A worker's process has the listening sockets from its start on, long before it serves. As long as one process
has a socket, the kernel lets clients in, and the last close resets those in its queue. So the workers that
serve go on until no other has the sockets. Then they take what waits, and close them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.tasks import start_soon

from .slots import CutOver, LastDrainDue, SupervisorEvent
from .worker_state import WorkerState
from .workers import Workers

if TYPE_CHECKING:
    from .worker_process import WorkerProcess

_PATIENCE: Final = 1.0
"""Seconds in which workers that do not serve close the sockets: they are dismissed, or their loops are free.
One whose start-up blocks its loop ends within half a second.
"""
_MOMENT: Final = 0.5
"""Seconds in which workers cut what is under way, before they are killed. "At once" means a second: see
`process/supervised.py`.
"""


class LastDrain:
    """Drains the `workers`, once."""

    def __init__(self, workers: Workers, post: Callable[[SupervisorEvent], None]) -> None:
        self._workers = workers
        self._post = post
        self._grace: float | None = None
        self._awaited: Sequence[WorkerProcess] = ()
        """Those that do not serve, while the others wait for them."""

    def begin(self, nursery: trio.Nursery, grace: float | None) -> None:
        """Drain those that do not serve, and the others as soon as they may go. Its delay runs in `nursery`.
        `grace` is as for `WorkerProcess.drain`.
        """
        self._grace = grace
        self._workers.cancel_delays()
        self._awaited = [worker for worker in self._workers.living if worker.state is not WorkerState.READY]
        for worker in self._awaited:
            worker.dismiss()
            worker.drain(final=True, grace=grace)
        if _is_held_up_by(self._awaited):
            start_soon(nursery, self._bring_end_of_patience)
        else:
            self._drain_all()

    async def _bring_end_of_patience(self) -> None:
        await trio.sleep(_PATIENCE)
        self._post(LastDrainDue())

    def follow_up(self) -> None:
        """Drain the others, if they have waited for something that has happened. Called after each event."""
        if self._awaited and not _is_held_up_by(self._awaited):
            self._drain_all()

    def take_end_of_patience(self) -> None:
        """Drain the others, if they still wait."""
        if self._awaited:
            self._drain_all()

    def shorten(self, grace: float) -> None:
        """Drain all, within `grace` at most, whoever has the sockets."""
        self._grace = grace
        self._drain_all()

    def cut(self, nursery: trio.Nursery) -> None:
        """Have all cut what is under way. They have a moment for that, which is counted in `nursery`."""
        self.shorten(0.0)
        start_soon(nursery, self._bring_end_of_moment)

    async def _bring_end_of_moment(self) -> None:
        await trio.sleep(_MOMENT)
        self._post(CutOver())

    def _drain_all(self) -> None:
        self._awaited = ()
        self._workers.drain_all(self._grace)


def _is_held_up_by(workers: Sequence[WorkerProcess]) -> bool:
    """Has one of them the sockets, and will not take the clients in their queues? One that drains, and has
    served, does.
    """
    return any(worker.has_sockets and not worker.may_accept for worker in workers)
