"""Replaces workers when files change (`--reload`)."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from trioasgi.tasks import start_soon

from .slots import PatienceOver, Slot, SlotState, SupervisorEvent
from .watcher import forget_bytecode
from .worker_process import WorkerProcess
from .workers import Workers

logger = logging.getLogger("trioasgi")

_MOST_GIVEN_UP = 2
"""Changes of files may replace so many workers of a slot in a row before they are ready."""
_PATIENCE = 5.0
"""Seconds in which an outdated worker may still become ready; twice the longest start if that is more."""


class Renewal:
    """Replaces each slot's worker at once, by one that starts beside it. The old one accepts no more, so
    new connections wait for the new code.

    If changes come very often, no worker would ever become ready. Then the starting worker goes on, and
    serves until its successor is ready.
    """

    def __init__(self, workers: Workers, post: Callable[[SupervisorEvent], None]) -> None:
        self._workers = workers
        self._post = post
        self.longest_start = 0.0
        """Seconds that the slowest worker has taken to become ready."""

    def begin(self, nursery: trio.Nursery) -> None:
        """Its delays run in `nursery`."""
        self._nursery = nursery

    def take_changes(self, paths: tuple[str, ...]) -> None:
        """These files have changed; none: the workers should be replaced for another reason."""
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        if paths:
            logger.info("Reloading: %s%s changed", ", ".join(paths[:3]), more)
        forget_bytecode(paths)
        for slot in self._workers.slots:
            self._renew(slot)

    def take_ready(self, slot: Slot, worker: WorkerProcess) -> None:
        """A slot's worker is ready. If it is outdated, it serves until its successor is ready."""
        self.longest_start = max(self.longest_start, trio.current_time() - worker.begun_at)
        if slot.is_outdated:
            self._workers.let_go(slot)
            self._workers.start(slot)
        else:
            slot.given_up = 0

    def take_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        """An outdated worker has had its time to become ready."""
        if slot.worker is worker and slot.state is SlotState.STARTING:
            self._replace(slot)

    def _renew(self, slot: Slot) -> None:
        slot.crashes = slot.false_starts = 0
        if slot.state is not SlotState.STARTING:
            self._replace(slot)
        elif slot.given_up < _MOST_GIVEN_UP:
            slot.given_up += 1
            self._replace(slot)
        elif slot.worker is not None and not slot.is_outdated:
            slot.is_outdated = True
            start_soon(self._nursery, self._bring_end_of_patience, slot, slot.worker)

    def _replace(self, slot: Slot) -> None:
        self._workers.retire(slot, grace=self._workers.config.reload_grace)
        self._workers.start(slot)

    async def _bring_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        await trio.sleep(max(_PATIENCE, 2 * self.longest_start))
        self._post(PatienceOver(slot, worker))
