"""The supervisor: it hears of everything that happens, and says who acts on it.

Everything that happens is an event in one channel. One task handles the events, one after the other. Each
worker, the file watcher, the signals and each delay have tasks of their own, which only send events.

`workers.py` has what is done to workers, and `worker_changes.py` what follows when one of them changes. Who
follows one that has ended: `respawn.py`. What a change of files does: `renewal.py`, and new options:
`options.py`. The replacement of all, one by one: `roll.py`.
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

from trioasgi.errors import ExitStatus
from trioasgi.net.address import is_inherited
from trioasgi.net.kernel import refuse_newcomers
from trioasgi.net.listeners import close_listeners
from trioasgi.observe.log_files import reopen_log_files
from trioasgi.tasks import start_soon

from .course import Course
from .last_drain import LastDrain
from .options import Options
from .renewal import Renewal
from .respawn import Respawn
from .rolls import Rolls
from .said import Reasons
from .slots import (
    CutOver,
    DelayOver,
    LastDrainDue,
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
from .worker_changes import WorkerChanges
from .worker_process import (
    WorkerDoneAccepting,
    WorkerDraining,
    WorkerDue,
    WorkerEnded,
    WorkerReady,
    WorkerWaiting,
)
from .workers import Workers

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.config.sources import Reread

    from .roll import Roll

logger = logging.getLogger("trioasgi")


class Supervisor:
    """Keeps workers serving on `sockets`, which it closes when it stops.

    `signals` yields the numbers of signals. The first that stops asks to stop, the others to end at once.
    `directory` is the working directory of the workers. `on_serving` is called once, when the first worker is
    ready, and `on_event` after each event. `terminal` is the descriptor of a terminal for a worker's stdin,
    or None. `reread` reads the options anew for a roll.
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
        reread: Reread | None = None,
    ) -> None:
        self._sockets = sockets
        self._signals = signals
        self._on_event = on_event
        self._course = Course()
        self._was_asked = False
        self._reasons = Reasons()
        # Unbounded, but small: a worker sends few events, and the other events are rare.
        self._send, self._receive = trio.open_memory_channel[SupervisorEvent](math.inf)
        self.workers = Workers(config, sockets, self.post, directory=directory, terminal=terminal)
        self._options = Options(
            config,
            self.workers,
            self._reasons,
            reread=reread or (lambda in_use: in_use.replace()),
            scale=self._scale,
            replace=self._take_changed_files,
        )
        self._last_drain = LastDrain(self.workers, self.post)
        self._renewal = Renewal(self.workers, self.post)
        self._stopgap = Stopgap(self.workers, self.post, lambda: self._renewal.longest_start)
        self._rolls = Rolls(
            self.workers, self.post, read_options=self._options.read, adopt=self._options.adopt
        )
        self._changes = WorkerChanges(
            self.workers,
            self._course,
            self._reasons,
            self.post,
            respawn=Respawn(self.workers, stop=self._stop, reasons=self._reasons),
            renewal=self._renewal,
            stopgap=self._stopgap,
            rolls=self._rolls,
            on_serving=on_serving,
        )
        self.failure: str | None = None
        """Why it has given up: no worker is left, and none can start."""

    @enable_ki_protection  # the program may have the main task, and Ctrl-C then raises in it
    async def supervise(self) -> ExitStatus:
        """Serve until a signal, or until no worker can be started. At the end all workers have ended.

        Raises ConfigError or TrioasgiError if files should be watched and cannot.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                start_soon(nursery, self._bring_signals)
                if self._options.current.reload:
                    start_soon(nursery, watch, self._options.current, self.post, self._source_files)
                    start_soon(nursery, watch_sources, self._source_files, self.post)
                self._changes.begin(nursery)
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
        return self._course.status

    @property
    def state(self) -> SupervisorState:
        """What it does."""
        return self._course.state

    @property
    def app(self) -> str | None:
        """The name of the application."""
        return self._options.current.app

    @property
    def roll(self) -> Roll | None:
        """The last roll, which may be over."""
        return self._rolls.last

    @property
    def is_rolling(self) -> bool:
        """Is a roll under way?"""
        return self._rolls.is_under_way

    @property
    def _is_over(self) -> bool:
        match self._course.state:
            case SupervisorState.RUNNING:
                return False
            case SupervisorState.STOPPING | SupervisorState.CUTTING:
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
        return source_files(self._options.current)

    async def _bring_signals(self) -> None:
        async for number in self._signals:
            self.post(Signalled(number))

    def _look_whether_any_serves(self) -> None:
        if self._options.current.reload and self._course.is_running:
            self._stopgap.look()

    def _handle(self, event: SupervisorEvent) -> None:
        match event:
            case WorkerWaiting(worker):
                self._changes.take_waiting(worker)
            case WorkerReady(worker):
                self._changes.take_ready(worker)
            case WorkerDue(worker, reason, is_too_large):
                self._changes.take_due(worker, reason, is_too_large=is_too_large)
            case WorkerDraining(worker, reason, is_planned):
                self._changes.take_draining(worker, reason, is_planned=is_planned)
            case WorkerDoneAccepting():
                pass  # a roll, or the stop, may have waited for it (see `_follow_up`)
            case WorkerEnded(worker):
                self._changes.take_ended(worker)
            case Signalled(number):
                self._take_signal(signal.Signals(number))
            case StopWanted(reason, grace):
                self._begin_stop(reason, grace)
            case LastDrainDue():
                self._last_drain.take_end_of_patience()
            case CutOver():
                self._abort()
            case _ if not self._course.is_running:
                self._refuse(event)
            case FilesChanged(paths):
                self._take_changed_files(paths)
            case SourcesChanged(paths):
                self._options.take_changed_sources(paths)
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
        self._options.stop()
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._refuse(self._receive.receive_nowait())
        self._receive.close()

    # What it is told

    def _take_signal(self, number: signal.Signals) -> None:
        if number.name not in ("SIGHUP", "SIGUSR1", "SIGTTIN", "SIGTTOU"):
            self._take_stop_signal(number.name)
            return
        logger.info(
            "%s%s", number.name, "" if self._course.is_running else " is not acted on: the server stops"
        )
        if self._course.is_running:
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
        elif self._course.state is SupervisorState.STOPPING:
            logger.warning("%s again: ending at once", name)
            self._course.enter(SupervisorState.CUTTING, ExitStatus.FAILED)
            self._last_drain.cut(self._nursery)
        else:
            self._abort()

    def _abort(self) -> None:
        """Kill the workers that still run."""
        self._course.enter(SupervisorState.ABORTED, ExitStatus.FAILED)

    def _begin_stop(self, reason: str, grace: float | None = None) -> None:
        self._was_asked = True
        logger.info("%s", reason)
        if self._course.is_running:
            self._stop(ExitStatus.OK, grace)
        elif grace is not None:
            self._last_drain.shorten(grace)

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

    def _stop(self, status: ExitStatus, grace: float | None = None) -> None:
        self._course.enter(SupervisorState.STOPPING, status)
        if status is not ExitStatus.OK:
            self.failure = self._reasons.last
        self._rolls.stop()
        self._options.stop()
        # The workers that serve accept what waits in the queues. The last close would reset a client that is
        # in the middle of its handshake with the kernel: so new ones are refused before.
        if not any(map(is_inherited, self._options.current.every_bind)):
            for sock in self._sockets:
                refuse_newcomers(sock)
        close_listeners(self._sockets)
        self._stopgap.stop()
        self._last_drain.begin(self._nursery, grace)

    # Rolls, and other changes

    def _take_roll(self, promise: Promise) -> None:
        if self._options.current.reload:
            self._options.renew(promise)
        else:
            self._rolls.begin(promise)

    def _take_changed_files(self, paths: tuple[str, ...]) -> None:
        self._reasons.forget()
        self._stopgap.take_changes()
        self._renewal.take_changes(paths)

    def _follow_up(self) -> None:
        """Do what has waited for something to end, however it ended. Called after each event."""
        if not self._course.is_running:
            self._last_drain.follow_up()
            return
        self._rolls.follow_up()
        self._options.follow_up()
        for slot in self.workers.slots:
            if slot.wants_successor:
                self.workers.succeed(slot)

    # Workers

    def _take_end_of_delay(self, slot: Slot) -> None:
        slot.delay = None
        if slot.state is SlotState.DELAYED:
            self.workers.start(slot)
