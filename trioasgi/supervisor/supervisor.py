"""The supervisor: it hears of everything that happens, and says who acts on it.

Everything that happens is an event in one channel. One task handles the events, one after the other. Each
worker, the file watcher, the signals and each delay have tasks of their own, which only send events.

`workers.py` has what is done to workers. Who follows one that has ended: `respawn.py`. What a change of files
does: `renewal.py`. The replacement of all, one by one: `roll.py`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.errors import ConfigError, ExitStatus, TLSError
from trioasgi.net.address import is_inherited
from trioasgi.net.kernel import refuse_newcomers
from trioasgi.net.listeners import close_listeners
from trioasgi.observe.log_files import reopen_log_files
from trioasgi.tasks import start_soon

from .renewal import Renewal
from .respawn import Respawn
from .rolls import Rolls
from .said import SaidLately
from .slots import (
    SUPERVISOR_TRANSITIONS,
    DelayOver,
    LogsRotated,
    PatienceOver,
    ProbesOver,
    Promise,
    RollWanted,
    ScaleWanted,
    Signalled,
    Slot,
    SlotState,
    StandbyWanted,
    StopgapWanted,
    StopWanted,
    SupervisorEvent,
    SupervisorState,
)
from .sources import SourcesChanged, source_files, watch_sources
from .stopgap import Stopgap
from .watcher import FilesChanged, watch
from .worker_process import (
    WorkerDoneAccepting,
    WorkerDraining,
    WorkerDue,
    WorkerEnded,
    WorkerProcess,
    WorkerReady,
    WorkerWaiting,
)
from .workers import Workers, has_been_stable, name_of

if TYPE_CHECKING:
    from trioasgi.config import Config

    from .roll import Roll

logger = logging.getLogger("trioasgi")

_STANDBY_PAUSE = 10.0
"""Seconds after the failure of a standby until the next one starts."""


class Supervisor:
    """Keeps workers serving on `sockets`, which it closes when it stops.

    `signals` yields the numbers of signals. The first that stops asks to stop, the others to end at once.
    `directory` is the working directory of the workers. `on_serving` is called once, when the first worker is
    ready, and `on_event` after each event. `terminal` is the descriptor of a terminal for a worker's stdin,
    or None. `reread` reads the options anew for a roll, or raises ConfigError.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        *,
        signals: AsyncIterator[int],
        directory: str,
        terminal: int | None = None,
        on_serving: Callable[[], None] = lambda: None,
        on_event: Callable[[SupervisorEvent], None] = lambda _: None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._signals = signals
        self._on_serving = on_serving
        self._on_event = on_event
        self._reread = reread or config.replace
        self._state = SupervisorState.RUNNING
        self._status = ExitStatus.OK
        self._was_asked = False
        self._has_announced = False
        self._said = SaidLately()
        # Unbounded, but small: a worker sends few events, and the other events are rare.
        self._send, self._receive = trio.open_memory_channel[SupervisorEvent](math.inf)
        self.workers = Workers(config, sockets, self.post, directory=directory, terminal=terminal)
        self._respawn = Respawn(self.workers, stop=self._stop, show=self._show)
        self._renewal = Renewal(self.workers, self.post)
        self._stopgap = Stopgap(self.workers, self.post, lambda: self._renewal.longest_start)
        self._rolls = Rolls(self.workers, self.post, read_options=self._read_options, adopt=self._adopt)
        self.failure: str | None = None
        """Why it has given up: no worker is left, and none can start."""
        self._last_reason = "no worker could be started"

    @enable_ki_protection  # the program may have the main task, and Ctrl-C then raises in it
    async def supervise(self) -> ExitStatus:
        """Serve until a signal, or until no worker can be started. At the end all workers have ended.

        Raises ConfigError or TrioasgiError if files should be watched and cannot.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                start_soon(nursery, self._bring_signals)
                if self._config.reload:
                    start_soon(nursery, watch, self._config, self.post, self._source_files)
                    start_soon(nursery, watch_sources, self._source_files, self.post)
                self._renewal.begin(nursery)
                self._stopgap.begin(nursery)
                self._rolls.open(nursery)
                self.workers.start_all(nursery)
                self._look_whether_any_serves()
                async for event in self._receive:
                    self._handle(event)
                    self._on_event(event)
                    self._follow_up()
                    if self._is_over:
                        break
                    self._look_whether_any_serves()
                nursery.cancel_scope.cancel()
        finally:
            self._refuse_all()
        return self._status

    @property
    def state(self) -> SupervisorState:
        """What it does."""
        return self._state

    @property
    def app(self) -> str | None:
        """The name of the application."""
        return self._config.app

    @property
    def roll(self) -> Roll | None:
        """The last roll, which may be over."""
        return self._rolls.last

    @property
    def is_rolling(self) -> bool:
        """Is a roll under way?"""
        return self._rolls.is_under_way

    @property
    def _is_running(self) -> bool:
        return self._state is SupervisorState.RUNNING

    @property
    def _is_over(self) -> bool:
        match self._state:
            case SupervisorState.RUNNING:
                return False
            case SupervisorState.STOPPING:
                return not self.workers.living
            case SupervisorState.ABORTED:
                return True

    def post(self, event: SupervisorEvent) -> None:
        """Have an event handled, in the supervisor's own task. To be called in its loop."""
        try:
            self._send.send_nowait(event)
        except trio.BrokenResourceError:  # it has ended
            self._refuse(event)

    def _source_files(self) -> tuple[str, ...]:
        return source_files(self._config)

    async def _bring_signals(self) -> None:
        async for number in self._signals:
            self.post(Signalled(number))

    def _look_whether_any_serves(self) -> None:
        if self._config.reload and self._is_running:
            self._stopgap.look()

    def _handle(self, event: SupervisorEvent) -> None:
        match event:
            case WorkerWaiting(worker):
                self._take_waiting(worker)
            case WorkerReady(worker):
                self._take_ready(worker)
            case WorkerDue(worker, reason, is_too_large):
                self._take_due(worker, reason, is_too_large=is_too_large)
            case WorkerDraining(worker, reason, is_planned):
                self._take_draining(worker, reason, is_planned=is_planned)
            case WorkerDoneAccepting():
                pass  # a roll may have waited for it (see `_follow_up`)
            case WorkerEnded(worker):
                self._take_ended(worker)
            case Signalled(number):
                self._take_signal(signal.Signals(number))
            case StopWanted(reason, grace):
                self._begin_stop(reason, grace)
            case _ if not self._is_running:
                self._refuse(event)
            case FilesChanged(paths):
                self._take_changed_files(paths)
            case SourcesChanged(paths):
                self._take_changed_sources(paths)
            case DelayOver(slot, scope) if slot.delay is scope:  # not a delay that was cancelled meanwhile
                self._take_end_of_delay(slot)
            case DelayOver():
                pass
            case PatienceOver(slot, worker):
                self._renewal.take_end_of_patience(slot, worker)
            case StandbyWanted():
                self.workers.keep_standby()
            case StopgapWanted(scope, breakage):
                self._stopgap.take_wish(scope, breakage)
            case ProbesOver(worker, failure):
                self._rolls.take_probes(worker, failure)
            case RollWanted(promise):
                self._take_roll(promise)
            case ScaleWanted(count, promise):
                self._scale(count)
                promise.keep()
            case LogsRotated(promise):
                self._reopen_logs()
                promise.keep()

    def _refuse(self, event: SupervisorEvent) -> None:
        if isinstance(event, RollWanted | ScaleWanted | LogsRotated):
            event.promise.keep("the server stops")

    def _refuse_all(self) -> None:
        """Tell all who wait for something that it will not be done."""
        self._rolls.stop()
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._refuse(self._receive.receive_nowait())
        self._receive.close()

    # What it is told

    def _take_signal(self, number: signal.Signals) -> None:
        if number.name not in ("SIGHUP", "SIGUSR1", "SIGTTIN", "SIGTTOU"):
            self._take_stop_signal(number.name)
            return
        logger.info("%s%s", number.name, "" if self._is_running else " is not acted on: the server stops")
        if self._is_running:
            match number.name:  # Windows has no such numbers
                case "SIGHUP":
                    self._reopen_logs()
                    self._take_roll(Promise())
                case "SIGUSR1":
                    self._reopen_logs()
                case "SIGTTIN":
                    self._scale(len(self.workers.slots) + 1)
                case _:
                    self._scale(len(self.workers.slots) - 1)

    def _take_stop_signal(self, name: str) -> None:
        if not self._was_asked:
            self._begin_stop(f"{name}: stopping; a second signal ends it at once")
        else:
            logger.warning("%s again: ending at once", name)
            self._status = ExitStatus.FAILED
            self._enter(SupervisorState.ABORTED)

    def _begin_stop(self, reason: str, grace: float | None = None) -> None:
        self._was_asked = True
        logger.info("%s", reason)
        if self._is_running:
            self._stop(ExitStatus.OK, grace)
        elif grace is not None:
            self.workers.drain_all(grace)

    def _reopen_logs(self) -> None:
        reopen_log_files()
        for worker in self.workers.living:
            worker.reopen_logs()
        logger.info("Log files are opened anew")

    def _scale(self, count: int) -> None:
        if count < 1:
            logger.warning("One worker is the least")
            return
        logger.info("Scaling from %d to %d workers", len(self.workers.slots), count)
        self.workers.scale(count)
        self._rolls.take_scaled()

    # Stopping

    def _enter(self, state: SupervisorState) -> None:
        assert state in SUPERVISOR_TRANSITIONS[self._state], (self._state, state)
        self._state = state

    def _stop(self, status: ExitStatus, grace: float | None = None) -> None:
        self._enter(SupervisorState.STOPPING)
        self._status = status
        if status is not ExitStatus.OK:
            self.failure = self._last_reason
        self._rolls.stop()
        # The workers accept what waits in the queues. The last close would reset a client that is in the
        # middle of its handshake with the kernel: so new ones are refused before.
        if not any(map(is_inherited, self._config.binds)):
            for sock in self._sockets:
                refuse_newcomers(sock)
        close_listeners(self._sockets)
        self.workers.drain_all(grace)
        self._stopgap.withdraw()

    # Rolls, and other changes

    def _take_roll(self, promise: Promise) -> None:
        if self._config.reload:
            promise.keep(self._renew_with_new_options())
        else:
            self._rolls.begin(promise)

    def _adopt(self, config: Config) -> None:
        """The canary of this config is ready: now what it says of the number of workers counts too."""
        if config.workers != self._config.workers and config.workers != len(self.workers.slots):
            self._scale(config.workers)
        self._config = config

    def _read_options(self) -> Config | str:
        """The options as they are now, or why they cannot be used."""
        self._said.forget()
        try:
            return self._reread()
        except (ConfigError, TLSError) as error:
            logger.error("Nothing is replaced: %s", error)  # noqa: TRY400 - the message is for the user
            return str(error)

    def _take_changed_sources(self, paths: tuple[str, ...]) -> None:
        """Files of options have changed (`--reload`). One that holds many other things, as pyproject.toml
        does, matters only if the options are others now.
        """
        config = self._read_options()
        if isinstance(config, str):
            return
        is_other = config.to_dict() != self._config.to_dict()
        if is_other or not set(paths) <= set(config.files):
            self._renew_with(config, paths)

    def _renew_with_new_options(self) -> str | None:
        """Replace all workers (`--reload`). Return why not."""
        config = self._read_options()
        if isinstance(config, str):
            return config
        self._renew_with(config)
        return None

    def _renew_with(self, config: Config, paths: tuple[str, ...] = ()) -> None:
        """Replace all workers by some of these options, as `paths` have changed."""
        is_scaled = config.workers not in (self._config.workers, len(self.workers.slots))
        self._config = self.workers.config = config
        self._take_changed_files(paths)
        if is_scaled:
            self._scale(config.workers)

    def _take_changed_files(self, paths: tuple[str, ...]) -> None:
        self._said.forget()
        self._stopgap.take_changes()
        self._renewal.take_changes(paths)

    def _follow_up(self) -> None:
        """Do what has waited for something to end, however it ended. Called after each event."""
        if not self._is_running:
            return
        self._rolls.follow_up()
        for slot in self.workers.slots:
            if slot.wants_successor:
                self.workers.succeed(slot)

    def _take_waiting(self, worker: WorkerProcess) -> None:
        if worker is self.workers.standby:
            logger.info("%s stands by", name_of(worker))
            return
        self._rolls.take_waiting(worker)

    # Workers

    def _take_end_of_delay(self, slot: Slot) -> None:
        slot.delay = None
        if slot.state is SlotState.DELAYED:
            self.workers.start(slot)

    def _take_ready(self, worker: WorkerProcess) -> None:
        slot = self.workers.slot_of(worker)
        if worker is self._stopgap.worker:
            logger.warning("%s shows to all clients why nothing serves", name_of(worker))
            self._announce()
            return
        if slot is not None:
            slot.enter(SlotState.SERVING)
        else:
            slot = self.workers.slot_of_successor(worker)
            if slot is None:
                return
            self.workers.take_over(slot)
        slot.false_starts = 0
        logger.info("%s is ready", name_of(worker))
        if not self._is_running:
            return
        self.workers.drain_leaving(slot)
        self._renewal.take_ready(slot, worker)
        self._respawn.has_served = True
        self._announce()
        for other in self.workers.slots:
            if other.state is SlotState.VACANT:  # a worker can start, so the failure may have been chance
                self.workers.start_later(other)
        self._rolls.tell(worker, None)
        self.workers.keep_standby()

    def _announce(self) -> None:
        if not self._has_announced:
            self._has_announced = True
            self._on_serving()

    def _take_due(self, worker: WorkerProcess, reason: str, *, is_too_large: bool) -> None:
        slot = self.workers.slot_of(worker)
        if slot is None or not self._is_running:
            return
        slot.is_due = True
        if is_too_large and not has_been_stable(worker):
            delay = self.workers.delay(slot)
            logger.warning("%s is due soon: %s; its successor starts in %g s", name_of(worker), reason, delay)
            return
        if is_too_large:
            slot.crashes = 0
        logger.info("%s is due: %s; its successor starts", name_of(worker), reason)

    def _take_draining(self, worker: WorkerProcess, reason: str, *, is_planned: bool) -> None:
        slot = self.workers.slot_of(worker)
        if slot is None or not self._is_running:
            return
        self.workers.let_go(slot)
        if slot.successor is not None:
            logger.info("%s is leaving (%s); its successor starts already", name_of(worker), reason)
            self.workers.promote(slot)
        else:
            self._respawn.follow(slot, worker, f"is leaving ({reason})", is_planned=is_planned)

    def _take_ended(self, worker: WorkerProcess) -> None:
        workers = self.workers
        workers.living.discard(worker)
        if worker is workers.standby:
            self._take_standbys_end(worker)
        elif worker is self._stopgap.worker:
            self._stopgap.take_end(worker)
        elif slot := workers.slot_of(worker):
            slot.worker = None
            self._stopgap.note_end(worker)
            if self._is_running:
                self._respawn.take_end(slot, worker)
                self._rolls.tell(worker, _why(worker))
            else:
                self._take_last_end(worker)
        elif slot := workers.slot_of_successor(worker):
            slot.successor = None
            if self._is_running:
                self._rolls.tell(worker, self._respawn.take_end_of_successor(slot, worker))
        elif slot := workers.slot_of_leaving(worker):
            self._take_leavers_end(slot, worker)

    def _take_standbys_end(self, worker: WorkerProcess) -> None:
        self.workers.standby = None
        if self._is_running:
            logger.warning("The standby, %s, %s", worker, worker.ending())
            if worker.failure is not None:
                self._show(worker.failure.reason)
            start_soon(self._nursery, self._want_standby)

    async def _want_standby(self) -> None:
        await trio.sleep(_STANDBY_PAUSE)
        self.post(StandbyWanted())

    def _take_last_end(self, worker: WorkerProcess) -> None:
        if worker.failure is not None:
            self._show(worker.failure.reason)
        self._note_status(worker)
        _log_end(worker)

    def _note_status(self, worker: WorkerProcess) -> None:
        """Note whether the worker ended well: by itself, and without cutting requests. Only then is the stop
        clean.
        """
        if worker.has_ended_badly and self._status is ExitStatus.OK:
            self._status = ExitStatus.FAILED

    def _take_leavers_end(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.leaving.remove(worker)
        self.workers.forget_removed()
        # If it was replaced before it was ready, its failure does not matter.
        if worker.failure is not None and worker.ready_at is not None:
            slot.crashes = max(slot.crashes, 1)
            self._show(worker.failure.reason)
        if not self._is_running and worker.ready_at is not None:
            self._note_status(worker)
        _log_end(worker)
        if not self._is_running or slot not in self.workers.slots:  # it was removed, and needs no worker
            return
        if slot.state is SlotState.WAITING and not slot.leaving:
            self.workers.start(slot)

    def _show(self, reason: str) -> None:
        self._last_reason = reason
        if self._said.is_news(reason):
            logger.error("%s", reason)


def _log_end(worker: WorkerProcess) -> None:
    """Log the end of a worker that was to stop."""
    if not worker.has_vanished:
        logger.info("%s has stopped", name_of(worker))
    elif worker.ready_at is None:  # it has lost no request
        logger.info("%s %s", name_of(worker), worker.ending())
    else:
        logger.warning("%s %s while it was stopping", name_of(worker), worker.ending())


def _why(worker: WorkerProcess) -> str:
    return f"{worker} {worker.ending()}" if worker.failure is None else worker.failure.reason
