"""Answers clients while no worker serves, under `--reload`.

A worker of its own, without a slot and without the application, then shows to each client why the application
does not start. It begins when the last slot has become vacant, or when none has served for a while, as an
application may block while it is imported. It ends at the next change of files, or as soon as a slot serves.

::

    NOT_NEEDED ─► AWAITED ─► SHOWN
        ▲  ▲_________│         │
        └──────────────────────┘
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final

import trio

from .slots import SlotState, StopgapWanted, SupervisorEvent
from .worker_process import WorkerProcess
from .workers import Workers, name_of

logger = logging.getLogger("trioasgi")

_PATIENCE: Final = 5.0
"""Seconds without a worker that serves, after which clients are told so; twice the longest start if that is
more.
"""
_LOCATING: Final = 1.0
"""Seconds in which a worker should say where its application is."""
_MOST_ENDS: Final = 3
"""So many stopgaps in a row may end by themselves. Then no other one starts until a file has changed."""


class StopgapState(Enum):
    """Whether clients are told why nothing serves."""

    NOT_NEEDED = "not needed"
    """A slot serves, or will soon."""
    AWAITED = "awaited"
    """No slot serves. Clients are told so unless that changes soon."""
    SHOWN = "shown"
    """Its worker has been started."""


STOPGAP_TRANSITIONS: Final[Mapping[StopgapState, Mapping[StopgapState, str]]] = {
    StopgapState.NOT_NEEDED: {
        StopgapState.AWAITED: "no slot serves",
        StopgapState.SHOWN: "no slot has a worker",
    },
    StopgapState.AWAITED: {
        StopgapState.NOT_NEEDED: "a slot serves, files have changed, or everything stops",
        StopgapState.SHOWN: "no slot has a worker, or the time is over",
    },
    StopgapState.SHOWN: {
        StopgapState.NOT_NEEDED: (
            "a slot serves, files have changed, another error is known, it has ended, or everything stops"
        ),
    },
}
"""For each state those that may follow, and when they do."""


class Stopgap:
    """Starts and ends the stopgap. `post` is that of the supervisor, and so is `longest_start`: the seconds
    that the slowest worker has taken to become ready.
    """

    def __init__(
        self,
        workers: Workers,
        post: Callable[[SupervisorEvent], None],
        longest_start: Callable[[], float],
    ) -> None:
        self.state = StopgapState.NOT_NEEDED
        self.worker: WorkerProcess | None = None
        self._workers = workers
        self._post = post
        self._longest_start = longest_start
        self._waiting: trio.CancelScope | None = None
        self._breakage = ""
        self._is_false_start = False
        """Has the last worker that has ended never been ready?"""
        self._ends = 0

    def begin(self, nursery: trio.Nursery) -> None:
        """Its delay runs in `nursery`."""
        self._nursery = nursery

    def note_end(self, worker: WorkerProcess) -> None:
        """A slot's worker has ended: how is what clients are told from now on."""
        self._is_false_start = worker.ready_at is None
        breakage = _how_it_ended(worker)
        if breakage != self._breakage:
            self.withdraw()
        self._breakage = breakage

    def take_changes(self) -> None:
        """Files have changed: whatever was wrong may be mended."""
        self._ends = 0
        self._breakage = ""
        self.withdraw()

    def look(self) -> None:
        """Begin or end it, by the states of the slots. To be called after each event."""
        workers = self._workers
        if workers.is_any_serving:
            self.withdraw()
        elif workers.are_all_vacant or (self._is_false_start and self._are_all_without_worker):
            if self.state is not StopgapState.SHOWN and self._ends < _MOST_ENDS:
                self._show(self._breakage)
        elif self.state is StopgapState.NOT_NEEDED and self._ends < _MOST_ENDS:
            self._enter(StopgapState.AWAITED)
            self._waiting = trio.CancelScope()
            self._nursery.start_soon(self._await_start, self._waiting)

    @property
    def _are_all_without_worker(self) -> bool:
        without = (SlotState.VACANT, SlotState.DELAYED)
        return all(slot.state in without for slot in self._workers.slots)

    def withdraw(self) -> None:
        """End it, if there is one."""
        worker = self.worker
        self.stop()
        if worker is not None:
            worker.drain(grace=self._workers.config.reload_grace)

    def stop(self) -> None:
        """Begin none any more, as everything stops. One that serves drains with the other workers."""
        self._stop_waiting()
        self.worker = None
        if self.state is not StopgapState.NOT_NEEDED:
            self._enter(StopgapState.NOT_NEEDED)

    def take_wish(self, scope: trio.CancelScope, breakage: str) -> None:
        """No slot has served for a while."""
        if self._waiting is scope:  # and nothing has happened meanwhile
            self._show(breakage)

    def take_end(self, worker: WorkerProcess) -> None:
        """The stopgap's worker has ended by itself, or was killed."""
        self.worker = None
        self._ends += 1 if worker.ready_at is not None else _MOST_ENDS
        self._enter(StopgapState.NOT_NEEDED)
        logger.error("%s, which shows the error, %s", name_of(worker), worker.end)
        if self._ends >= _MOST_ENDS:
            logger.error("Connections wait until a file changes")

    def _enter(self, state: StopgapState) -> None:
        assert state in STOPGAP_TRANSITIONS[self.state], (self.state, state)
        self.state = state

    def _show(self, breakage: str) -> None:
        self._stop_waiting()
        self._enter(StopgapState.SHOWN)
        self.worker = self._workers.start_stopgap(breakage)
        self._workers.keep_standby()  # for the next save

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    async def _await_start(self, scope: trio.CancelScope) -> None:
        with scope:
            patience = max(_PATIENCE, 2 * self._longest_start())
            await trio.sleep(patience)
            self._post(StopgapWanted(scope, await self._describe(patience)))

    async def _describe(self, patience: float) -> str:
        """What to say if nothing has failed, and nothing serves."""
        slots = self._workers.slots
        starting = [slot.worker for slot in slots if slot.worker and slot.state is SlotState.STARTING]
        if not starting:
            return self._breakage or "No worker is running at the moment; another one starts soon"
        where = ""
        with trio.move_on_after(_LOCATING):
            where = await starting[0].locate()
        summary = f"The application has not started within {patience:g} s. It is still starting"
        return f"{summary}\n\nIt is here:\n\n{where}" if where else summary


def _how_it_ended(worker: WorkerProcess) -> str:
    if worker.end.failure is not None:
        return worker.end.failure.reason
    when = " before it was ready" if worker.ready_at is None else ""
    return (
        f"The process of the application {worker.end.killed or worker.end}{when}\n\n"
        "It has reported no exception. The log, in the terminal, may say more."
    )
