"""What follows when a worker waits, is ready, is due, leaves or ends, and who is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from trioasgi.tasks import start_soon

from .course import Course
from .renewal import Renewal
from .respawn import Respawn
from .rolls import Rolls
from .said import Reasons
from .slots import Slot, SlotState, StandbyWanted, SupervisorEvent
from .stopgap import Stopgap
from .worker_process import WorkerProcess
from .workers import Workers, has_been_stable, name_of

logger = logging.getLogger("trioasgi")

_STANDBY_PAUSE = 10.0
"""Seconds after the failure of a standby until the next one starts."""


class WorkerChanges:
    """Handles the events of workers. `on_serving` is called once, when the first of them is ready."""

    def __init__(
        self,
        workers: Workers,
        course: Course,
        reasons: Reasons,
        post: Callable[[SupervisorEvent], None],
        *,
        respawn: Respawn,
        renewal: Renewal,
        stopgap: Stopgap,
        rolls: Rolls,
        on_serving: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._course = course
        self._reasons = reasons
        self._post = post
        self._respawn = respawn
        self._renewal = renewal
        self._stopgap = stopgap
        self._rolls = rolls
        self._on_serving = on_serving
        self._has_announced = False

    def begin(self, nursery: trio.Nursery) -> None:
        """Its delays run in `nursery`."""
        self._nursery = nursery

    def take_waiting(self, worker: WorkerProcess) -> None:
        """Its application has started, and it waits to be told to accept."""
        if worker is self._workers.standby:
            logger.info("%s stands by", name_of(worker))
            return
        self._rolls.take_waiting(worker)

    def take_ready(self, worker: WorkerProcess) -> None:
        """It accepts connections: its predecessor may leave."""
        slot = self._workers.slot_of(worker)
        if worker is self._stopgap.worker:
            logger.warning("%s shows to all clients why nothing serves", name_of(worker))
            self._announce()
            return
        if slot is not None:
            slot.enter(SlotState.SERVING)
        else:
            slot = self._workers.slot_of_successor(worker)
            if slot is None:
                return
            self._workers.take_over(slot)
        slot.false_starts = 0
        logger.info("%s is ready", name_of(worker))
        if not self._course.is_running:
            return
        self._workers.drain_leaving(slot)
        self._renewal.take_ready(slot, worker)
        self._respawn.has_served = True
        self._announce()
        for other in self._workers.slots:
            if other.state is SlotState.VACANT:  # a worker can start, so the failure may have been chance
                self._workers.start_later(other)
        self._workers.limit_imports()
        self._rolls.tell(worker, None)
        self._workers.keep_standby()

    def _announce(self) -> None:
        if not self._has_announced:
            self._has_announced = True
            self._on_serving()

    def take_due(self, worker: WorkerProcess, reason: str, *, is_too_large: bool) -> None:
        """It should be replaced. Its successor is started by `Supervisor._follow_up`."""
        slot = self._workers.slot_of(worker)
        if slot is None or not self._course.is_running:
            return
        slot.due = worker
        if is_too_large and not has_been_stable(worker):
            delay = self._workers.delay(slot)
            logger.warning("%s is due soon: %s; its successor starts in %g s", name_of(worker), reason, delay)
            return
        if is_too_large:
            slot.crashes = 0
        logger.info("%s is due: %s; its successor starts", name_of(worker), reason)

    def take_draining(self, worker: WorkerProcess, reason: str, *, is_planned: bool) -> None:
        """It leaves though nobody here has asked."""
        slot = self._workers.slot_of(worker)
        if slot is None or not self._course.is_running:
            return
        self._workers.let_go(slot)
        if self._workers.promote(slot):
            logger.info("%s is leaving (%s); its successor starts already", name_of(worker), reason)
        else:
            self._respawn.follow(slot, worker, f"is leaving ({reason})", is_planned=is_planned)

    def take_ended(self, worker: WorkerProcess) -> None:
        """Its process has ended, or could not be started."""
        workers = self._workers
        workers.living.discard(worker)
        if worker is workers.standby:
            self._take_standbys_end(worker)
        elif worker is self._stopgap.worker:
            self._stopgap.take_end(worker)
        elif slot := workers.slot_of(worker):
            slot.worker = None
            self._stopgap.note_end(worker)
            if self._course.is_running:
                self._show_reason(worker)
                self._rolls.tell(worker, _why(worker))  # first: what follows may be that all stops
                self._respawn.take_end(slot, worker)
            else:
                self._take_last_end(worker)
        elif slot := workers.slot_of_successor(worker):
            slot.successor = None
            if self._course.is_running:
                self._rolls.tell(worker, self._respawn.take_end_of_successor(slot, worker))
            else:
                self._take_last_end(worker)
        elif slot := workers.slot_of_leaving(worker):
            self._take_leavers_end(slot, worker)

    def _take_standbys_end(self, worker: WorkerProcess) -> None:
        self._workers.standby = None
        if self._course.is_running:
            logger.warning("The standby, %s, %s", worker, worker.end)
            self._show_reason(worker)
            start_soon(self._nursery, self._want_standby)

    async def _want_standby(self) -> None:
        await trio.sleep(_STANDBY_PAUSE)
        self._post(StandbyWanted())

    def _show_reason(self, worker: WorkerProcess) -> None:
        if worker.end.failure is not None:
            self._reasons.show(worker.end.failure.reason)

    def _take_last_end(self, worker: WorkerProcess) -> None:
        self._show_reason(worker)
        self._course.note_end(worker)
        _log_end(worker)

    def _take_leavers_end(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.leaving.remove(worker)
        self._workers.forget_removed()
        # If it was replaced before it was ready, its failure does not matter.
        if worker.end.failure is not None and worker.ready_at is not None:
            slot.crashes = max(slot.crashes, 1)
            self._reasons.show(worker.end.failure.reason)
        if not self._course.is_running and worker.ready_at is not None:
            self._course.note_end(worker)
        _log_end(worker)
        if not self._course.is_running or slot not in self._workers.slots:  # it was removed
            return
        if slot.state is SlotState.WAITING and not slot.leaving:
            self._workers.start(slot)


def _log_end(worker: WorkerProcess) -> None:
    """Log the end of a worker that was to stop."""
    if not worker.end.is_unexplained:
        logger.info("%s has stopped", name_of(worker))
    elif worker.ready_at is None:  # it has lost no request
        logger.info("%s %s", name_of(worker), worker.end)
    else:
        logger.warning("%s %s while it was stopping", name_of(worker), worker.end)


def _why(worker: WorkerProcess) -> str:
    return f"{worker} {worker.end}" if worker.end.failure is None else worker.end.failure.reason
