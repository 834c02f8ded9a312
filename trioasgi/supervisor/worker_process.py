"""One worker process, from its start to its end, as the supervisor sees it.

It gets an order on its stdin, at once or later, reports that it is ready, and serves until it is told to
drain, or drains by itself. It ends when its process ends, for any reason. It never returns to an earlier
state: another worker takes its slot. `vigil.py` watches its deadlines.
"""

from __future__ import annotations

import logging
import random
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.errors import ExitStatus
from trioasgi.tasks import start_soon

from .command import identity_of
from .dialogue import Dialogue
from .launch import Endowment, launch
from .messages import (
    AcceptCommand,
    DoneAccepting,
    DrainCommand,
    Draining,
    Due,
    DumpCommand,
    Dumped,
    Failed,
    Heartbeat,
    LocateCommand,
    Located,
    Ready,
    ReopenLogsCommand,
    Report,
    ShuttingDown,
    Starting,
    Stopped,
    Waiting,
)
from .vigil import Vigil
from .worker_end import WorkerEnd, failed_start
from .worker_state import BEFORE_END, WORKER_TRANSITIONS, WorkerState

if TYPE_CHECKING:
    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

_DUMPING = 2.0
"""Seconds in which a silent worker should log what it does, and then again in which SIGABRT should end it."""
_LAST_WORDS = 0.5
"""Seconds to read the last reports of an ended worker. Its children may hold the socket open."""
_REAPING = 5.0
"""Seconds in which the kernel should end a killed process."""
if sys.platform == "win32":
    _KILL = signal.SIGTERM  # the one way to end a process there
else:
    _KILL = signal.SIGKILL


class WorkerWaiting(msgspec.Struct, frozen=True):
    """The worker's application has started, and it waits to be told to accept."""

    worker: WorkerProcess


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker accepts connections now."""

    worker: WorkerProcess


class WorkerDue(msgspec.Struct, frozen=True):
    """The worker should be replaced, for this reason. It serves until its successor is ready."""

    worker: WorkerProcess
    reason: str
    is_too_large: bool
    """Is its memory the reason? Its successor may need as much from the first, and so on without end."""


class WorkerDraining(msgspec.Struct, frozen=True):
    """The worker has stopped accepting, though the supervisor has not asked."""

    worker: WorkerProcess
    reason: str
    is_planned: bool
    """As in the worker's report."""


class WorkerDoneAccepting(msgspec.Struct, frozen=True):
    """The worker has closed its listening sockets, whoever has asked."""

    worker: WorkerProcess


class WorkerEnded(msgspec.Struct, frozen=True):
    """The process has ended. The worker's attributes say how."""

    worker: WorkerProcess


WorkerEvent: TypeAlias = (
    WorkerWaiting | WorkerReady | WorkerDue | WorkerDraining | WorkerDoneAccepting | WorkerEnded
)
"""The events of a worker. Each comes at most once. WorkerEnded always comes, as the last."""


class WorkerProcess:
    """A worker. `start_and_wait` runs it. The other methods may be called at any time.

    `config` is that of its order, unless `instruct` gives it another. `sockets` are the listening sockets.
    `terminal` is the descriptor of a terminal, or None. `directory` is the worker's directory, even if it was
    removed and made again. `post` is called with each WorkerEvent, in the supervisor's loop.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        post: Callable[[WorkerEvent], None],
        *,
        directory: str,
        terminal: int | None = None,
    ) -> None:
        self.state = WorkerState.STANDBY
        self.pid: int | None = None
        self.end = WorkerEnd()
        """How it has ended, as far as that is known."""
        self.begun_at = trio.current_time()
        """When it was given its order."""
        self.ready_at: float | None = None
        """When it became ready. `begun_at` and this are in seconds of `trio.current_time()`."""
        self.may_accept = False
        """Is it ready, and has it not yet reported that it has stopped accepting?"""
        self.has_sockets = True
        """May its process have the listening sockets? It has them from its start on."""
        self.heartbeat = Heartbeat()
        """The last one."""
        self.config = config
        self._sockets = sockets
        self._terminal = terminal
        self._directory = directory
        self._started_in = identity_of(directory)
        self._post = post
        self._process: trio.Process | None = None
        self._dialogue = Dialogue(self._take)
        self._vigil = Vigil(config)
        self._dumped = trio.Event()
        self._located = trio.Event()
        self._stack = ""
        self._is_due = False
        self._lifetime = 0.0
        self._private: list[socket.socket] = []

    def __str__(self) -> str:
        return f"worker {self.pid or '(not started)'}"

    @property
    def is_outdated(self) -> bool:
        """Was its directory replaced by another one since it was started? Then it is in the old one."""
        return identity_of(self._directory) != self._started_in

    # What it is told

    def instruct(
        self,
        config: Config,
        *,
        gated: bool = False,
        is_timed: bool = False,
        name: str = "worker",
        breakage: str | None = None,
    ) -> None:
        """Give it its order, once. `gated`: it waits for `accept()` when its application has started.
        `is_timed`: loading the application has a deadline too, as others serve meanwhile. `name` is for the
        title of its process. `breakage`: it shows this in place of the application.
        """
        self._enter(WorkerState.STARTING)
        self.config = self._vigil.config = config
        self._lifetime = config.worker_lifetime * random.uniform(0.9, 1.0)  # noqa: S311 - no secret
        self.begun_at = trio.current_time()
        if is_timed:
            self.limit_import()
        self._dialogue.order(
            partial(Endowment.order, config=config, gated=gated, name=name, breakage=breakage)
        )

    def limit_import(self) -> None:
        """From now on loading the application has a deadline too. Nothing if it is loaded."""
        self._vigil.import_limited.set()

    def accept(self, name: str = "") -> None:
        """Let it accept connections, if its order was gated. `name`: a new one for its process's title."""
        self._dialogue.tell(AcceptCommand(name))

    def drain(self, *, final: bool = False, grace: float | None = None) -> None:
        """Ask the worker to stop. It is killed if it does not end in time. May be called more than once.

        `final`: all other workers stop too. `grace`: seconds that requests have, in place of the option.
        """
        if self.state in BEFORE_END:
            self._enter(WorkerState.DRAINING)
        # If the application has begun the drain with a longer grace, a stop of all shortens it.
        if final or not self._vigil.leaving.is_set():
            self._vigil.begin_leaving(grace)
        self._dialogue.settle()
        self._dialogue.tell(DrainCommand(final=final, grace=grace))

    def dismiss(self) -> None:
        """End its process at once if the application is not loaded. It may take long until it reads commands.

        SIGTERM does that, until the worker installs a handler: then the application is loaded, though this
        process may not have heard of it.
        """
        if not self._vigil.starting.is_set():
            self.end.was_dismissed = True
            self._end_if_dismissed()

    def _end_if_dismissed(self) -> None:
        if self.end.was_dismissed and self._process is not None:
            self._process.terminate()

    async def locate(self) -> str:
        """Where its application is, as in a traceback. It waits for as long as the worker takes."""
        self._dialogue.tell(LocateCommand())
        await self._located.wait()
        return self._stack

    def reopen_logs(self) -> None:
        """Have it open its log files anew."""
        self._dialogue.tell(ReopenLogsCommand())

    def kill(self, reason: str) -> None:
        """End the process at once and log why."""
        self._end_by(_KILL, reason)

    def _end_by(self, number: int, reason: str) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self.end.killed = reason
        logger.error("%s %s: killed", str(self).capitalize(), reason)
        self._process.send_signal(number)

    def take_private(self) -> list[socket.socket]:
        """This end of the private connections, which the caller closes: one for each probe. Once."""
        private, self._private = self._private, []
        return private

    # Its process

    @enable_ki_protection
    async def start_and_wait(self) -> None:
        """Start the process and wait until it has ended. When cancelled, kill it.

        Raises nothing but cancellation: `end` says what went wrong.
        """
        try:
            if self.state is not WorkerState.DRAINING:  # it was not told to stop before it could start
                await self._live()
        finally:
            self._enter(WorkerState.ENDED)
            self.may_accept = self.has_sockets = False
            for connection in self._private:
                connection.close()
            self._post(WorkerEnded(self))

    async def _live(self) -> None:
        try:
            launched = await launch(
                self._sockets,
                directory=self._directory,
                terminal=self._terminal,
                private=len(self.config.smoke),
            )
        except (OSError, RuntimeError) as error:
            self.end.failure = failed_start(error)
            return
        self._private = launched.private
        with launched.reports:
            await self._stay_with(launched.process, launched.endowment, launched.reports)

    def _enter(self, state: WorkerState) -> None:
        assert state in WORKER_TRANSITIONS[self.state], (self.state, state)
        self.state = state

    async def _stay_with(self, process: trio.Process, endowment: Endowment, reports: socket.socket) -> None:
        self._process = process
        self.pid = process.pid
        logger.debug("%s was started", str(self).capitalize())
        self._end_if_dismissed()
        try:
            async with trio.open_nursery() as nursery:
                start_soon(nursery, self._dialogue.speak, process, endowment)
                start_soon(nursery, self._vigil.watch_import, self._end_startup)
                start_soon(nursery, self._vigil.count_silence)
                start_soon(nursery, self._vigil.watch_startup, self._end_startup)
                start_soon(nursery, self._watch_heart, process)
                start_soon(nursery, self._vigil.watch_leaving, self.kill)
                start_soon(nursery, self._dialogue.hear, process, reports)
                await process.wait()
                with trio.move_on_after(_LAST_WORDS):
                    await self._dialogue.has_heard_all.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self._reap(process)

    async def _reap(self, process: trio.Process) -> None:
        if process.returncode is None:
            logger.warning("%s still runs: it is killed", str(self).capitalize())
            process.kill()
            with trio.CancelScope(deadline=trio.current_time() + _REAPING, shield=True):
                await process.wait()
        self.end.exit_status = process.returncode
        assert process.stdin is not None
        await trio.aclose_forcefully(process.stdin)

    # What it reports

    def _take(self, report: Report | None) -> None:
        vigil = self._vigil
        vigil.note_sign()
        match report:
            case Starting():
                vigil.starting.set()
            case Waiting():
                vigil.started.set()
                if self.state is WorkerState.STARTING:
                    self._enter(WorkerState.WAITING)
                    self._post(WorkerWaiting(self))
            case Ready():
                vigil.started.set()
                self._take_ready()
            case Due():
                self._take_due(report.reason)
            case Draining() if self.state in BEFORE_END:
                self._enter(WorkerState.DRAINING)
                vigil.begin_leaving(report.grace)
                self._post(WorkerDraining(self, report.reason, report.is_planned))
            case DoneAccepting():
                self.may_accept = self.has_sockets = False
                self._post(WorkerDoneAccepting(self))
            case ShuttingDown():
                vigil.shuts_down = True
            case Stopped():
                vigil.leaving.set()
                vigil.finished.set()
                self.end.has_finished = True
            case Failed():
                if not self.end.was_dismissed:
                    self.end.failure = report
                vigil.leaving.set()
                vigil.finished.set()
                self.end.has_finished = True
            case Heartbeat():
                self.heartbeat = report
                self._look_whether_due()
            case Dumped():
                self._dumped.set()
            case Located(stack):
                self._stack = stack
                self._located.set()
            case Draining():
                pass  # it was told to
            case None:
                logger.debug("%s reported something that is not a report", str(self).capitalize())

    def _take_ready(self) -> None:
        if self.ready_at is not None:
            return
        self.ready_at = self._vigil.last_sign
        self.may_accept = True
        if self.state in (WorkerState.STARTING, WorkerState.WAITING):
            self._enter(WorkerState.READY)
            self._post(WorkerReady(self))

    def _take_due(self, reason: str, *, is_too_large: bool = False) -> None:
        if self.state is WorkerState.READY and not self._is_due:
            self._is_due = True
            self._post(WorkerDue(self, reason, is_too_large))

    def _look_whether_due(self) -> None:
        """Has it lived for its time, or grown too large?"""
        if self.ready_at is None or self._is_due:
            return
        most = self.config.worker_max_rss
        if self._lifetime and trio.current_time() - self.ready_at >= self._lifetime:
            self._take_due(f"it has lived for {self._lifetime:.1f} s (--worker-lifetime)")
        elif most and self.heartbeat.rss > most:
            why = f"it occupies {self.heartbeat.rss} bytes of memory (--worker-max-rss)"
            self._take_due(why, is_too_large=True)

    # Its deadlines

    def _end_startup(self, why: str) -> None:
        self.kill(why)
        if self.end.killed is not None:
            self.end.failure = Failed(
                reason=f"a worker {why}", permanent=True, status=int(ExitStatus.NOT_STARTED)
            )

    async def _watch_heart(self, process: trio.Process) -> None:
        """End a worker whose loop is blocked. It logs what it does; SIGABRT has the stacks shown where C code
        lets no Python run; and SIGKILL ends it in any case.
        """
        timeout = await self._vigil.wait_silent()
        why = f"has given no sign of life for {timeout:g} s (--timeout-worker)"
        logger.error("%s %s; it is told to log what it does", str(self).capitalize(), why)
        self._dialogue.tell(DumpCommand())
        with trio.move_on_after(_DUMPING):
            await self._dumped.wait()
        if sys.platform != "win32":
            self._end_by(signal.SIGABRT, why)
            await trio.sleep(_DUMPING)
        if process.returncode is None:
            process.kill()
            self.end.killed = why
