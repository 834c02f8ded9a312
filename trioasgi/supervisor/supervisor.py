"""The supervisor's decisions: which worker runs in which slot, and what happens when one ends.

Everything that happens is an event in one channel. One task handles the events, one after the other. Each
worker, the file watcher, the signals and each delay have tasks of their own, which only send events.
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
from trioasgi.net.kernel import refuse_newcomers
from trioasgi.net.listeners import close_listeners

from .said import SaidLately
from .slots import (
    SUPERVISOR_TRANSITIONS,
    DelayOver,
    PatienceOver,
    Signalled,
    Slot,
    SlotState,
    SupervisorEvent,
    SupervisorState,
)
from .watcher import FilesChanged, forget_bytecode, watch
from .worker_process import WorkerDraining, WorkerEnded, WorkerProcess, WorkerReady

if TYPE_CHECKING:
    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

MOST_FALSE_STARTS = 5
"""While no slot serves, so many workers of one slot in a row may end before they are ready."""
_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0
_STABLE = 10.0
"""Seconds after which a worker that was ready is no longer counted as having crashed at once."""
_MOST_GIVEN_UP = 2
"""Changes of files may replace so many workers of a slot in a row before they are ready."""
_PATIENCE = 5.0
"""Seconds in which an outdated worker may still become ready; twice the longest start if that is more."""
_MOST_LEAVING = 3
"""So many replaced workers of a slot may be draining. If one more is replaced, the oldest is killed."""


class Supervisor:
    """Keeps `config.workers` workers serving on `sockets`, which it closes when it stops.

    `stop_requests` yields the numbers of signals: the first asks to stop, the others to end at once.
    `directory` is the working directory of the workers. `on_serving` is called once, when the first worker is
    ready. `terminal` is the descriptor of a terminal for a worker's stdin, or None.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        *,
        stop_requests: AsyncIterator[int],
        directory: str,
        terminal: int | None = None,
        on_serving: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._stop_requests = stop_requests
        self._terminal = terminal
        self._on_serving = on_serving
        self._served = False
        self._slots = [Slot() for _ in range(config.workers)]
        self._living: set[WorkerProcess] = set()
        self._state = SupervisorState.RUNNING
        self._status = ExitStatus.OK
        self._directory = directory
        self._longest_start = 0.0
        self._was_asked = False
        self._said = SaidLately()
        # Unbounded, but small: a worker sends at most three events, and the other events are rare.
        self._send, self._receive = trio.open_memory_channel[SupervisorEvent](math.inf)

    async def supervise(self) -> ExitStatus:
        """Serve until a signal, or until no worker can be started. At the end all workers have ended.

        Raises ConfigError or TrioasgiError if files should be watched and cannot.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._bring_signals)
            if self._config.reload:
                nursery.start_soon(watch, self._config, self._post)
            for slot in self._slots:
                self._start_worker(slot)
            async for event in self._receive:
                self._handle(event)
                if self._state is SupervisorState.ABORTED or (
                    self._state is SupervisorState.STOPPING and not self._living
                ):
                    break
            nursery.cancel_scope.cancel()
        return self._status

    @property
    def _is_running(self) -> bool:
        return self._state is SupervisorState.RUNNING

    @property
    def _is_over(self) -> bool:
        match self._state:
            case SupervisorState.RUNNING:
                return False
            case SupervisorState.STOPPING:
                return not self._living
            case SupervisorState.ABORTED:
                return True

    def _post(self, event: SupervisorEvent) -> None:
        self._send.send_nowait(event)

    async def _bring_signals(self) -> None:
        async for number in self._stop_requests:
            self._post(Signalled(number))

    def _handle(self, event: SupervisorEvent) -> None:
        match event:
            case WorkerReady(worker):
                self._take_ready(worker)
            case WorkerDraining(worker, reason, is_planned):
                self._take_draining(worker, reason, is_planned=is_planned)
            case WorkerEnded(worker):
                self._take_ended(worker)
            case FilesChanged(paths):
                self._take_changes(paths)
            case DelayOver(slot, scope) if slot.delay is scope:  # not a delay that was cancelled meanwhile
                self._start_worker(slot)
            case DelayOver():
                pass
            case PatienceOver(slot, worker):
                self._take_end_of_patience(slot, worker)
            case Signalled(number):
                self._take_signal(signal.Signals(number).name)

    # Stopping

    def _enter(self, state: SupervisorState) -> None:
        assert state in SUPERVISOR_TRANSITIONS[self._state], (self._state, state)
        self._state = state

    def _take_signal(self, name: str) -> None:
        if not self._was_asked:
            self._was_asked = True
            logger.info("%s: stopping; a second signal ends it at once", name)
            if self._is_running:
                self._stop(ExitStatus.OK)
        else:
            logger.warning("%s again: ending at once", name)
            self._status = ExitStatus.FAILED
            self._enter(SupervisorState.ABORTED)

    def _stop(self, status: ExitStatus) -> None:
        self._enter(SupervisorState.STOPPING)
        self._status = status
        for slot in self._slots:
            self._cancel_delay(slot)
        # The workers accept what waits in the queues. The last close would reset a client that is in the
        # middle of its handshake with the kernel: so new ones are refused before.
        if not any(bind.startswith("fd:") for bind in self._config.binds):
            for sock in self._sockets:
                refuse_newcomers(sock)
        close_listeners(self._sockets)
        for worker in self._living:
            worker.drain(final=True)

    # Files

    def _take_changes(self, paths: tuple[str, ...]) -> None:
        if not self._is_running:
            return
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        logger.info("Reloading: %s%s changed", ", ".join(paths[:3]), more)
        forget_bytecode(paths)
        self._said.forget()
        for slot in self._slots:
            self._renew(slot)

    def _renew(self, slot: Slot) -> None:
        """Replace the slot's worker at once, by one that starts beside it. The old one accepts no more, so
        new connections wait for the new code.

        If changes come very often, no worker would ever become ready. Then the starting worker goes on, and
        serves until its successor is ready.
        """
        slot.crashes = slot.false_starts = 0
        if slot.state is not SlotState.STARTING:
            self._replace(slot)
        elif slot.given_up < _MOST_GIVEN_UP:
            slot.given_up += 1
            self._replace(slot)
        elif slot.worker is not None and not slot.is_outdated:
            slot.is_outdated = True
            self._nursery.start_soon(self._bring_end_of_patience, slot, slot.worker)

    def _replace(self, slot: Slot) -> None:
        self._retire(slot)
        self._start_worker(slot)

    async def _bring_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        await trio.sleep(max(_PATIENCE, 2 * self._longest_start))
        self._post(PatienceOver(slot, worker))

    def _take_end_of_patience(self, slot: Slot, worker: WorkerProcess) -> None:
        if self._is_running and slot.worker is worker and slot.state is SlotState.STARTING:
            self._replace(slot)

    # Workers

    def _start_worker(self, slot: Slot) -> None:
        self._cancel_delay(slot)
        worker = WorkerProcess(
            self._config, self._sockets, self._post, terminal=self._terminal, directory=self._directory
        )
        slot.worker = worker
        slot.enter(SlotState.STARTING)
        slot.is_outdated = False
        self._living.add(worker)
        self._nursery.start_soon(worker.start_and_wait)

    def _retire(self, slot: Slot) -> None:
        if slot.worker is not None:
            slot.worker.drain()
            self._let_go(slot)

    def _let_go(self, slot: Slot) -> None:
        """Drain the slot's worker, now or when its successor is ready."""
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
        slot.enter(SlotState.SERVING)
        slot.false_starts = 0
        logger.info("%s is ready", _name(worker))
        if not self._is_running:
            return
        self._longest_start = max(self._longest_start, trio.current_time() - worker.begun_at)
        self._drain_leaving(slot)
        if slot.is_outdated:
            self._let_go(slot)
            self._start_worker(slot)
        else:
            slot.given_up = 0
        if not self._served:
            self._served = True
            self._on_serving()
        for other in self._slots:
            if other.state is SlotState.VACANT:  # a worker can start, so the failure may have been chance
                self._start_later(other)

    def _take_draining(self, worker: WorkerProcess, reason: str, *, is_planned: bool) -> None:
        slot = self._slot_of(worker)
        if slot is None or not self._is_running:
            return
        self._let_go(slot)
        self._follow(slot, worker, f"is leaving ({reason})", is_planned=is_planned)

    def _follow(self, slot: Slot, worker: WorkerProcess, how: str, *, is_planned: bool) -> None:
        """Start the successor of a worker that has not failed.

        If it has left soon and on its own, the next may do the same: only the first is followed at once.
        """
        if is_planned or self._has_been_stable(worker):
            slot.crashes = 0
        if slot.crashes:  # the worker before it failed, or left, as early
            delay = self._start_later(slot)
            logger.warning("%s %s; the next starts in %g s", _name(worker), how, delay)
            return
        if not is_planned and not self._has_been_stable(worker):
            slot.crashes = 1
        logger.info("%s %s; its successor starts", _name(worker), how)
        self._start_worker(slot)

    def _take_ended(self, worker: WorkerProcess) -> None:
        self._living.discard(worker)
        slot = self._slot_of(worker)
        if slot is None:
            self._take_leavers_end(worker)
        elif self._is_running:
            slot.worker = None
            self._decide_successor(slot, worker)
        else:
            slot.worker = None
            self._take_last_end(worker)

    def _take_last_end(self, worker: WorkerProcess) -> None:
        if worker.failure is not None:
            self._show(worker.failure.reason)
        self._note_status(worker)
        logger.info("%s has stopped", _name(worker))

    def _note_status(self, worker: WorkerProcess) -> None:
        """Note whether the worker ended well: by itself, and without cutting requests. Only then is the stop
        clean.
        """
        if worker.has_ended_badly and self._status is ExitStatus.OK:
            self._status = ExitStatus.FAILED

    def _take_leavers_end(self, worker: WorkerProcess) -> None:
        slot = next(slot for slot in self._slots if worker in slot.leaving)
        slot.leaving.remove(worker)
        # If it was replaced before it was ready, its failure does not matter.
        if worker.failure is not None and worker.ready_at is not None:
            slot.crashes = max(slot.crashes, 1)
            self._show(worker.failure.reason)
        if not self._is_running and worker.ready_at is not None:
            self._note_status(worker)
        logger.info("%s has stopped", _name(worker))
        if self._is_running and slot.state is SlotState.WAITING and not slot.leaving:
            self._start_worker(slot)

    def _decide_successor(self, slot: Slot, worker: WorkerProcess) -> None:
        """Decide who follows a worker that has ended by itself."""
        if worker.failure is not None:
            self._show(worker.failure.reason)
        if worker.ready_at is None:
            self._take_false_start(slot, worker)
        elif worker.failure is None and worker.exit_status == 0:
            self._follow(slot, worker, "has stopped", is_planned=False)
        else:
            if self._has_been_stable(worker):
                slot.crashes = 0
            delay = self._start_later(slot)
            logger.error("%s %s; the next starts in %g s", _name(worker), worker.ending(), delay)

    def _take_false_start(self, slot: Slot, worker: WorkerProcess) -> None:
        permanent = worker.failure is not None and worker.failure.permanent
        if worker.failure is None:
            logger.error("%s %s before it was ready", _name(worker), worker.ending())
        if worker.lacked_room:
            delay = self._start_later(slot)
            logger.error("A worker could not be started; %g s until the next attempt", delay)
            return
        if slot.is_outdated:
            self._start_worker(slot)
            return
        if slot.leaving:
            slot.enter(SlotState.WAITING)
            self._drain_leaving(slot)
            logger.info("It is tried again when its predecessor has stopped")
            return
        slot.false_starts += 1
        if self._config.reload:
            slot.enter(SlotState.VACANT)
            if self._is_all_vacant():
                logger.warning("Nothing serves; waiting for a file to change. Connections wait meanwhile")
        elif any(other.state is SlotState.SERVING for other in self._slots):
            delay = self._start_later(slot)
            logger.error("A worker could not start; %g s until the next attempt", delay)
        elif permanent:
            slot.enter(SlotState.VACANT)
            if self._is_all_vacant():
                assert worker.failure is not None
                if self._served:  # the reason may have been said long ago
                    logger.critical("Stopping: no worker is left, and none can start")
                self._stop(ExitStatus(worker.failure.status))
        elif slot.false_starts >= MOST_FALSE_STARTS:
            logger.critical("Giving up: %d workers ended before they were ready", slot.false_starts)
            self._stop(ExitStatus.FAILED)
        else:
            self._start_later(slot)

    def _is_all_vacant(self) -> bool:
        return all(slot.state is SlotState.VACANT for slot in self._slots)

    def _start_later(self, slot: Slot) -> float:
        """Start the slot's next worker after a delay, which grows with each crash. Return the delay."""
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(slot.crashes, 10))
        slot.crashes += 1
        slot.enter(SlotState.DELAYED)
        slot.delay = trio.CancelScope()
        self._nursery.start_soon(self._bring_end_of_delay, slot, slot.delay, delay)
        return delay

    async def _bring_end_of_delay(self, slot: Slot, scope: trio.CancelScope, delay: float) -> None:
        with scope:
            await trio.sleep(delay)
            self._post(DelayOver(slot, scope))

    def _cancel_delay(self, slot: Slot) -> None:
        if slot.delay is not None:
            slot.delay.cancel()
            slot.delay = None

    def _has_been_stable(self, worker: WorkerProcess) -> bool:
        return worker.ready_at is not None and trio.current_time() - worker.ready_at >= _STABLE

    def _slot_of(self, worker: WorkerProcess) -> Slot | None:
        return next((slot for slot in self._slots if slot.worker is worker), None)

    def _show(self, reason: str) -> None:
        if self._said.is_news(reason):
            logger.error("%s", reason)


def _name(worker: WorkerProcess) -> str:
    return str(worker).capitalize()
