"""Decides who follows a worker that has ended, or leaves, though the supervisor has not asked.

Only ends that are a worker's own fault, and come early, delay the next one. A worker that was killed from
outside after it has served, by an operator or by the kernel for want of memory, is replaced at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from trioasgi.errors import ExitStatus

from .said import Reasons
from .slots import Slot, SlotState
from .worker_process import WorkerProcess
from .workers import Workers, has_been_stable, name_of

logger = logging.getLogger("trioasgi")

MOST_FALSE_STARTS = 5
"""While no slot serves, so many workers of one slot in a row may end before they are ready."""


class Respawn:
    """Follows up on the ends of workers. `stop` ends the supervisor with a status, and `reasons` has those
    that were logged.
    """

    def __init__(self, workers: Workers, *, stop: Callable[[ExitStatus], None], reasons: Reasons) -> None:
        self._workers = workers
        self._stop = stop
        self._reasons = reasons
        self.has_served = False
        """Has any worker been ready?"""

    def follow(self, slot: Slot, worker: WorkerProcess, how: str, *, is_planned: bool) -> None:
        """Start the successor of a worker that has not failed.

        If it has left soon and on its own, the next may do the same: only the first is followed at once.
        """
        if is_planned or has_been_stable(worker):
            slot.crashes = 0
        if slot.crashes:  # the worker before it failed, or left, as early
            delay = self._workers.start_later(slot)
            logger.warning("%s %s; the next starts in %g s", name_of(worker), how, delay)
            return
        if not is_planned and not has_been_stable(worker):
            slot.crashes = 1
        logger.info("%s %s; its successor starts", name_of(worker), how)
        self._workers.start(slot)

    def take_end(self, slot: Slot, worker: WorkerProcess) -> None:
        """Follow up on the end of a slot's worker, whose reason was shown. The slot has none now."""
        if self._workers.promote(slot):
            logger.error("%s %s; its successor starts already", name_of(worker), worker.end)
        elif worker.ready_at is None:
            self._take_false_start(slot, worker)
        elif worker.end.failure is None and worker.end.exit_status == 0:
            self.follow(slot, worker, "has stopped", is_planned=False)
        elif worker.end.is_from_outside:
            logger.warning("%s %s; its successor starts", name_of(worker), worker.end)
            self._workers.start(slot)
        else:
            if has_been_stable(worker):
                slot.crashes = 0
            delay = self._workers.start_later(slot)
            logger.error("%s %s; the next starts in %g s", name_of(worker), worker.end, delay)

    def take_end_of_successor(self, slot: Slot, worker: WorkerProcess) -> str:
        """Follow up on the end of a successor that was not ready. The slot goes on as if there had been none.
        Return the reason.
        """
        reason = f"{worker} {worker.end} before it was ready"
        if worker.end.failure is not None:
            reason = worker.end.failure.reason
            self._reasons.show(reason)
        else:
            logger.error("%s %s before it was ready", name_of(worker), worker.end)
        if slot.is_due and worker.config is self._workers.config:
            delay = self._workers.delay(slot)
            logger.error("%s could not take over; %g s until the next attempt", name_of(worker), delay)
        return reason

    def _take_false_start(self, slot: Slot, worker: WorkerProcess) -> None:
        if worker.end.failure is None:
            logger.error("%s %s before it was ready", name_of(worker), worker.end)
        if worker.end.lacked_room or worker.end.is_from_outside:
            delay = self._workers.start_later(slot)
            logger.error("A worker could not be started; %g s until the next attempt", delay)
        elif slot.is_outdated or worker.config is not self._workers.config:
            self._workers.start(slot)  # of these files, or options, it says nothing
        elif any(leaver.ready_at is not None for leaver in slot.leaving):
            slot.enter(SlotState.WAITING)
            self._workers.drain_leaving(slot)
            logger.info("It is tried again when its predecessor has stopped")
        elif slot.leaving:  # they may hold what it needs, but were no predecessors, and may take long
            delay = self._workers.start_later(slot)
            logger.error("A worker could not start beside others; %g s until the next attempt", delay)
        else:
            slot.false_starts += 1
            self._decide_after_false_start(slot, worker)

    def _decide_after_false_start(self, slot: Slot, worker: WorkerProcess) -> None:
        workers = self._workers
        if workers.config.reload:
            slot.enter(SlotState.VACANT)
            if workers.are_all_vacant:
                logger.warning("Nothing serves; waiting for a file to change")
        elif workers.is_any_serving or workers.is_any_succeeding:
            delay = workers.start_later(slot)
            logger.error("A worker could not start; %g s until the next attempt", delay)
        elif worker.end.failure is not None and worker.end.failure.permanent:
            slot.enter(SlotState.VACANT)
            if workers.are_all_vacant:
                if self.has_served:  # the reason may have been said long ago
                    logger.critical("Stopping: no worker is left, and none can start")
                self._stop(ExitStatus(worker.end.failure.status))
        elif slot.false_starts >= MOST_FALSE_STARTS:
            logger.critical("Giving up: %d workers ended before they were ready", slot.false_starts)
            self._stop(ExitStatus.FAILED if self.has_served else ExitStatus.NOT_STARTED)
        else:
            workers.start_later(slot)
