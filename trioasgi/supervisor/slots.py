"""The supervisor's decisions: which worker has which place, and what happens when one ends.

Everything that happens is an event in one channel, handled by one task, one after the other. Each worker, the
file watcher, the signals and each delay have tasks of their own that do nothing but bring events.
"""

from __future__ import annotations

import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from trioasgi.errors import ExitStatus
from trioasgi.importing import working_directory
from trioasgi.net.listeners import close_listeners
from trioasgi.signals import AGAIN_AFTER

from .places import Course, Event, PatienceOver, Place, RestOver, Signalled, Slot
from .process import WorkerDraining, WorkerEnded, WorkerProcess, WorkerReady
from .watcher import FilesChanged, forget_bytecode, watch

if TYPE_CHECKING:
    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

MOST_FALSE_STARTS = 5
"""Workers of a slot that may end before they are ready, one after the other, while no slot serves."""
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0
_STABLE = 10.0
"""Seconds after which a worker that was ready is no longer counted as having crashed at once."""
_MOST_GIVEN_UP = 2
"""Workers of a slot that changes may replace before they are ready, one after the other."""
_PATIENCE = 5.0
"""Seconds that an outdated worker gets to become ready in, or twice the longest start if that is more."""
_MOST_LEAVING = 3
"""Workers of a slot that may still be draining when one more is replaced; then the oldest is killed."""


class Supervisor:
    """Keeps `config.workers` workers serving on `sockets`, which it closes when it stops.

    `signals` yields the numbers of signals that ask to stop; `on_serving` is called once, when the first
    worker is ready. `terminal` is the fd of a terminal for a worker's stdin, or None.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        *,
        signals: AsyncIterator[int],
        terminal: int | None = None,
        on_serving: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._signals = signals
        self._terminal = terminal
        self._on_serving = on_serving
        self._served = False
        self._slots = [Slot() for _ in range(config.workers)]
        self._living: set[WorkerProcess] = set()
        self._course = Course.RUNNING
        self._status = ExitStatus.OK
        self._directory = working_directory()
        self._longest_start = 0.0
        self._asked_at: float | None = None
        self._shown: set[str] = set()
        """Failures said since the last change: N workers that fail alike say it once."""
        # Unbounded, and yet small: a worker brings three events at most, the rest come at a human pace.
        self._send, self._receive = trio.open_memory_channel[Event](math.inf)

    async def run(self) -> ExitStatus:
        """Serve until a signal, or until no worker can be started; no worker is left in the end.

        Raises ConfigError or TrioasgiError if files shall be watched and cannot.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._bring_signals)
            if self._config.reload:
                nursery.start_soon(watch, self._config, self._tell)
            for slot in self._slots:
                self._fill(slot)
            async for event in self._receive:
                self._handle(event)
                if self._course is Course.ABORTED or (self._course is Course.STOPPING and not self._living):
                    break
            nursery.cancel_scope.cancel()
        return self._status

    def _tell(self, event: Event) -> None:
        self._send.send_nowait(event)

    async def _bring_signals(self) -> None:
        async for number in self._signals:
            self._tell(Signalled(number))

    def _handle(self, event: Event) -> None:
        match event:
            case WorkerReady(worker):
                self._take_ready(worker)
            case WorkerDraining(worker, reason):
                self._take_draining(worker, reason)
            case WorkerEnded(worker):
                self._take_ended(worker)
            case FilesChanged(paths):
                self._take_changes(paths)
            case RestOver(slot, rest) if slot.rest is rest:  # and not one that was cut short meanwhile
                self._fill(slot)
            case RestOver():
                pass
            case PatienceOver(slot, worker):
                self._take_end_of_patience(slot, worker)
            case Signalled(number):
                self._take_signal(signal.Signals(number).name)

    # Stopping

    def _take_signal(self, name: str) -> None:
        now = trio.current_time()
        if self._asked_at is None:
            self._asked_at = now
            logger.info("%s: stopping; a second signal ends it at once", name)
            if self._course is Course.RUNNING:
                self._stop(ExitStatus.OK)
        elif now >= self._asked_at + AGAIN_AFTER:
            logger.warning("%s again: ending at once", name)
            self._status = ExitStatus.FAILED
            self._course = Course.ABORTED

    def _stop(self, status: ExitStatus) -> None:
        self._course = Course.STOPPING
        self._status = status
        for slot in self._slots:
            self._wake(slot)
        # Ours first: what waits in the queues is for the workers to take, and when the last of them has done
        # so there is nobody left with whom a client could wait.
        close_listeners(self._sockets)
        for worker in self._living:
            worker.drain(final=True)

    # Files

    def _take_changes(self, paths: tuple[str, ...]) -> None:
        if self._course is not Course.RUNNING:
            return
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        logger.info("Reloading: %s%s changed", ", ".join(paths[:3]), more)
        forget_bytecode(paths)
        self._shown.clear()
        for slot in self._slots:
            self._renew(slot)

    def _renew(self, slot: Slot) -> None:
        """Have the slot's worker replaced at once, by one beside it: it no longer accepts, new connections
        wait in the listener for the new code, and never meet the old.

        But in a storm of changes no worker would ever become ready in this way. Then the one that is starting
        goes on, and serves until its successor is ready.
        """
        slot.crashes = slot.false_starts = 0
        if slot.place is not Place.STARTING:
            self._replace(slot)
        elif slot.given_up < _MOST_GIVEN_UP:
            slot.given_up += 1
            self._replace(slot)
        elif slot.worker is not None and not slot.is_outdated:
            slot.is_outdated = True
            self._nursery.start_soon(self._bring_end_of_patience, slot, slot.worker)

    def _replace(self, slot: Slot) -> None:
        self._retire(slot)
        self._fill(slot)

    async def _bring_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        await trio.sleep(max(_PATIENCE, 2 * self._longest_start))
        self._tell(PatienceOver(slot, worker))

    def _take_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        if self._course is Course.RUNNING and slot.worker is worker and slot.place is Place.STARTING:
            self._replace(slot)

    # Workers

    def _fill(self, slot: Slot) -> None:
        self._wake(slot)
        worker = WorkerProcess(
            self._config, self._sockets, self._tell, terminal=self._terminal, directory=self._directory
        )
        slot.worker = worker
        slot.place = Place.STARTING
        slot.is_outdated = False
        self._living.add(worker)
        self._nursery.start_soon(worker.run)

    def _retire(self, slot: Slot) -> None:
        if slot.worker is not None:
            slot.worker.drain()
            self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        """The slot's worker is on its way out, now or when its successor is ready."""
        assert slot.worker is not None
        if len(slot.leaving) >= _MOST_LEAVING:
            slot.leaving[0].kill(f"was still draining when {_MOST_LEAVING} more had to")
        slot.leaving.append(slot.worker)
        slot.worker = None

    def _drain_leaving(self, slot: Slot) -> None:
        for worker in slot.leaving:
            worker.drain()

    def _take_ready(self, worker: WorkerProcess) -> None:
        slot = self._slot_of(worker)
        if slot is None:
            return
        slot.place = Place.SERVING
        slot.false_starts = 0
        logger.info("%s is ready", _name(worker))
        if self._course is not Course.RUNNING:
            return
        self._longest_start = max(self._longest_start, trio.current_time() - worker.begun_at)
        self._drain_leaving(slot)
        if slot.is_outdated:
            self._let_go(slot)
            self._fill(slot)
        else:
            slot.given_up = 0
        if not self._served:
            self._served = True
            self._on_serving()
        for other in self._slots:
            if other.place is Place.VACANT:  # it can be done, so what failed may have been chance
                self._rest(other)

    def _take_draining(self, worker: WorkerProcess, reason: str) -> None:
        slot = self._slot_of(worker)
        if slot is None or self._course is not Course.RUNNING:
            return
        self._let_go(slot)
        if self._has_been_stable(worker):
            slot.crashes = 0
        if slot.crashes:  # the one before it left as early, and with a failure
            delay = self._rest(slot)
            logger.warning("%s is leaving (%s); the next starts in %g s", _name(worker), reason, delay)
        else:
            logger.info("%s is leaving (%s); its successor starts", _name(worker), reason)
            self._fill(slot)

    def _take_ended(self, worker: WorkerProcess) -> None:
        self._living.discard(worker)
        slot = self._slot_of(worker)
        if slot is None:
            self._take_leavers_end(worker)
        elif self._course is Course.RUNNING:
            slot.worker = None
            self._succeed(slot, worker)
        else:
            slot.worker = None
            self._take_last_end(worker)

    def _take_last_end(self, worker: WorkerProcess) -> None:
        if worker.failure is not None:
            self._show(worker.failure.reason)
        self._note_status(worker)
        logger.info("%s has stopped", _name(worker))

    def _note_status(self, worker: WorkerProcess) -> None:
        """A stop is a good one if each worker has ended well: by itself, and with nothing cut short."""
        if worker.has_ended_badly and self._status is ExitStatus.OK:
            self._status = ExitStatus.FAILED

    def _take_leavers_end(self, worker: WorkerProcess) -> None:
        slot = next(slot for slot in self._slots if worker in slot.leaving)
        slot.leaving.remove(worker)
        # What has replaced it before it could even serve is not interested in why it could not.
        if worker.failure is not None and worker.ready_at is not None:
            slot.crashes = max(slot.crashes, 1)
            self._show(worker.failure.reason)
        if self._course is not Course.RUNNING and worker.ready_at is not None:
            self._note_status(worker)
        logger.info("%s has stopped", _name(worker))
        if self._course is Course.RUNNING and slot.place is Place.WAITING and not slot.leaving:
            self._fill(slot)

    def _succeed(self, slot: Slot, worker: WorkerProcess) -> None:
        """Decide who follows a worker that has ended by itself."""
        if worker.failure is not None:
            self._show(worker.failure.reason)
        if worker.ready_at is None:
            self._take_false_start(slot, worker)
        elif worker.failure is None and worker.exit_status == 0:
            logger.info("%s has stopped; its successor starts", _name(worker))
            self._fill(slot)
        else:
            if self._has_been_stable(worker):
                slot.crashes = 0
            delay = self._rest(slot)
            logger.error("%s %s; the next starts in %g s", _name(worker), worker.ending(), delay)

    def _take_false_start(self, slot: Slot, worker: WorkerProcess) -> None:
        permanent = worker.failure is not None and worker.failure.permanent
        if worker.failure is None:
            logger.error("%s %s before it was ready", _name(worker), worker.ending())
        if worker.lacked_room:
            delay = self._rest(slot)
            logger.error("A worker could not be started; %g s until the next attempt", delay)
            return
        if slot.is_outdated:
            self._fill(slot)
            return
        if slot.leaving:
            slot.place = Place.WAITING
            self._drain_leaving(slot)
            logger.info("It is tried again when its predecessor has stopped")
            return
        slot.false_starts += 1
        if self._config.reload:
            slot.place = Place.VACANT
            if self._is_all_vacant():
                logger.warning("Nothing serves; waiting for a file to change. Connections wait meanwhile")
        elif any(other.place is Place.SERVING for other in self._slots):
            delay = self._rest(slot)
            logger.error("A worker could not start; %g s until the next attempt", delay)
        elif permanent:
            slot.place = Place.VACANT
            if self._is_all_vacant():
                assert worker.failure is not None
                self._stop(ExitStatus(worker.failure.status))
        elif slot.false_starts >= MOST_FALSE_STARTS:
            logger.critical("Giving up: %d workers ended before they were ready", slot.false_starts)
            self._stop(ExitStatus.FAILED)
        else:
            self._rest(slot)

    def _is_all_vacant(self) -> bool:
        return all(slot.place is Place.VACANT for slot in self._slots)

    def _rest(self, slot: Slot) -> float:
        """Start the slot's next worker after a delay, which is returned; longer with each crash."""
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(slot.crashes, 10))
        slot.crashes += 1
        slot.place = Place.RESTING
        slot.rest = trio.CancelScope()
        self._nursery.start_soon(self._bring_end_of_rest, slot, slot.rest, delay)
        return delay

    async def _bring_end_of_rest(self, slot: Slot, scope: trio.CancelScope, delay: float) -> None:
        with scope:
            await trio.sleep(delay)
            self._tell(RestOver(slot, scope))

    def _wake(self, slot: Slot) -> None:
        if slot.rest is not None:
            slot.rest.cancel()
            slot.rest = None

    def _has_been_stable(self, worker: WorkerProcess) -> bool:
        return worker.ready_at is not None and trio.current_time() - worker.ready_at >= _STABLE

    def _slot_of(self, worker: WorkerProcess) -> Slot | None:
        return next((slot for slot in self._slots if slot.worker is worker), None)

    def _show(self, reason: str) -> None:
        if reason not in self._shown:
            self._shown.add(reason)
            logger.error("%s", reason)


def _name(worker: WorkerProcess) -> str:
    return str(worker).capitalize()
