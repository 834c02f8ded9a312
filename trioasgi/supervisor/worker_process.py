"""One worker process, from its start to its end, as the supervisor sees it.

It gets an order on its stdin, reports that it is ready, and serves until it is told to drain, or drains by
itself. It ends when its process ends, for any reason. It never returns to an earlier state: another worker
takes its slot. The application's start-up, the silence of a serving worker and the drain have deadlines.
After them the process is killed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import trio

from trioasgi.errors import ExitStatus
from trioasgi.net.accept import NO_ROOM

from . import handover
from .command import worker_command
from .messages import (
    LONGEST_REPORT,
    DrainCommand,
    Draining,
    Failed,
    Heartbeat,
    LineBuffer,
    Order,
    Ready,
    Report,
    Starting,
    Stopped,
    decode_report,
    encode_line,
    heartbeat_interval,
)

if TYPE_CHECKING:
    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

MARGIN = 3.0
"""Seconds from each deadline that a worker watches itself until the supervisor kills it."""
_LAST_WORDS = 0.5
"""Seconds to read the last reports of an ended worker. Its children may hold the socket open."""
_REAPING = 5.0
"""Seconds in which the kernel should end a killed process."""
_CHUNK = 1 << 16
_NO_ROOM = NO_ROOM | {errno.EAGAIN}
"""Errors that say that the system has no room, also those of fork()."""
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP})
"""Errors that say that the interpreter or the directory cannot be used: trying again would not help."""


class WorkerState(Enum):
    """The state of a worker."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


WORKER_TRANSITIONS: Mapping[WorkerState, Mapping[WorkerState, str]] = {
    WorkerState.STARTING: {
        WorkerState.READY: "it accepts connections",
        WorkerState.DRAINING: "told to stop, or it stops by itself",
        WorkerState.ENDED: "its process is gone, or could not be started",
    },
    WorkerState.READY: {
        WorkerState.DRAINING: "told to stop, or it stops by itself",
        WorkerState.ENDED: "its process is gone",
    },
    WorkerState.DRAINING: {WorkerState.ENDED: "its process is gone"},
    WorkerState.ENDED: {},
}
"""For each state those that may follow, and when they do."""


class WorkerReady(msgspec.Struct, frozen=True):
    """The worker accepts connections now."""

    worker: WorkerProcess


class WorkerDraining(msgspec.Struct, frozen=True):
    """The worker has stopped accepting, though the supervisor has not asked."""

    worker: WorkerProcess
    reason: str
    is_planned: bool
    """As in the worker's report."""


class WorkerEnded(msgspec.Struct, frozen=True):
    """The process has ended. The worker's attributes say how."""

    worker: WorkerProcess


WorkerEvent: TypeAlias = WorkerReady | WorkerDraining | WorkerEnded
"""The events of a worker. Each comes at most once. WorkerEnded always comes, as the last."""


class WorkerProcess:
    """A worker. `start_and_wait` runs it. The other methods may be called at any time.

    `config` is sent to the worker, and `sockets` are the listening sockets. `terminal` is the descriptor of a
    terminal, or None. `directory` is the worker's directory, even if it was removed and made again. `post` is
    called with each WorkerEvent, in the supervisor's loop.
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
        self.state = WorkerState.STARTING
        self.pid: int | None = None
        self.exit_status: int | None = None
        """As in `subprocess`: negative for a signal; None before the end, and if it could not be started."""
        self.failure: Failed | None = None
        """The failure that the worker reported, or that prevented its start."""
        self.lacked_room = False
        """Could it not be started because the system has no descriptors, memory or processes left? That may
        pass.
        """
        self.killed: str | None = None
        """Why the supervisor killed it; None if it did not."""
        self.begun_at = trio.current_time()
        self.ready_at: float | None = None
        """When it became ready. `begun_at` and this are in seconds of `trio.current_time()`."""
        self._config = config
        self._sockets = sockets
        self._terminal = terminal
        self._directory = directory
        self._post = post
        self._process: trio.Process | None = None
        self._last_sign = self.begun_at
        self._starting = trio.Event()
        self._ready = trio.Event()
        self._drain_wanted = trio.Event()
        self._last_drain_wanted = False
        self._leaving = trio.Event()
        self._leaving_scope = trio.CancelScope()
        self._grace = config.timeout_graceful_shutdown
        self._finished = trio.Event()

    def __str__(self) -> str:
        return f"worker {self.pid or '(not started)'}"

    async def start_and_wait(self) -> None:
        """Start the process and wait until it has ended. When cancelled, kill it.

        Raises nothing but cancellation: `failure`, `killed` and `exit_status` say what went wrong.
        """
        try:
            if self.state is WorkerState.STARTING:  # it was not told to stop before it could start
                await self._live()
        finally:
            self._enter(WorkerState.ENDED)
            self._post(WorkerEnded(self))

    async def _live(self) -> None:
        with contextlib.ExitStack() as ours:
            try:
                reports, theirs = socket.socketpair()
                ours.enter_context(reports)
                # Copies: the supervisor may close its own while the process is being started in a thread.
                with theirs, handover.copies(self._sockets) as sockets:
                    process = await handover.open_with(
                        worker_command(self._directory), [*sockets, theirs], self._terminal, self._directory
                    )
                    with contextlib.ExitStack() as undo:
                        undo.callback(process.kill)
                        order = self._order(process.pid, sockets, theirs)
                        undo.pop_all()
            except (OSError, RuntimeError) as error:
                self._take_failed_start(error)
                return
            await self._stay_with(process, order, reports)

    def _enter(self, state: WorkerState) -> None:
        assert state in WORKER_TRANSITIONS[self.state], (self.state, state)
        self.state = state

    def _take_failed_start(self, error: OSError | RuntimeError) -> None:
        # Python raises RuntimeError if there is no room for a thread, or in fork().
        self.lacked_room = not isinstance(error, OSError) or error.errno in _NO_ROOM
        hint = "; raise the limits of open files and processes" if self.lacked_room else ""
        reason = f"a worker could not be started: {error}{hint}"
        is_refused = isinstance(error, OSError) and error.errno in _REFUSED
        status = ExitStatus.NOT_STARTED if is_refused else ExitStatus.FAILED
        self.failure = Failed(reason=reason, permanent=is_refused, status=int(status))

    def drain(self, *, final: bool = False) -> None:
        """Ask the worker to stop. It is killed if it does not end in time. May be called more than once.

        `final`: all other workers stop too.
        """
        self._last_drain_wanted = self._last_drain_wanted or final
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            self._enter(WorkerState.DRAINING)
        # If the application has begun the drain with a longer grace, a stop of all shortens it.
        if final or not self._leaving.is_set():
            self._limit_leaving(self._config.timeout_graceful_shutdown)
        self._leaving.set()
        self._drain_wanted.set()

    def kill(self, reason: str) -> None:
        """End the process at once and log why."""
        if self._process is None or self._process.returncode is not None:
            return
        self.killed = reason
        logger.error("%s %s: killed", str(self).capitalize(), reason)
        self._process.kill()

    @property
    def has_ended_badly(self) -> bool:
        """Has it failed, was it killed, or did it cut requests?"""
        if self.failure is not None or self.killed is not None:
            return True
        if self.ready_at is None:  # it has no requests; a Ctrl-C that reaches it may end it in any way
            return False
        # A process manager may send SIGTERM to the workers too, and a terminal SIGINT. A worker that has
        # stopped already has no requests to finish.
        good = (None, 0, -signal.SIGTERM, -signal.SIGINT) if self._finished.is_set() else (None, 0)
        return self.exit_status not in good

    def ending(self) -> str:
        """How the process ended, for people."""
        if self.exit_status is None:
            return "was not started"
        if self.exit_status >= 0:
            return f"ended with exit status {self.exit_status}"
        try:
            return f"was ended by {signal.Signals(-self.exit_status).name}"
        except ValueError:
            return f"was ended by signal {-self.exit_status}"

    def _order(self, pid: int, sockets: Sequence[socket.socket], reports: socket.socket) -> bytes:
        return encode_line(
            Order(
                config=self._config.to_dict(),
                origins=dict(self._config.origins),
                sockets=[handover.describe(sock, pid) for sock in sockets],
                reports=handover.describe(reports, pid),
                stdin=self._terminal,
            )
        )

    async def _stay_with(self, process: trio.Process, order: bytes, reports: socket.socket) -> None:
        self._process = process
        self.pid = process.pid
        logger.debug("%s was started", str(self).capitalize())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._instruct, process, order)
                nursery.start_soon(self._watch_startup)
                nursery.start_soon(self._watch_heart)
                nursery.start_soon(self._watch_leaving)
                all_read = trio.Event()
                nursery.start_soon(self._read_reports, reports, all_read)
                await process.wait()
                with trio.move_on_after(_LAST_WORDS):
                    await all_read.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self._reap(process)

    async def _reap(self, process: trio.Process) -> None:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(deadline=trio.current_time() + _REAPING, shield=True):
                await process.wait()
        self.exit_status = process.returncode
        assert process.stdin is not None
        await trio.aclose_forcefully(process.stdin)

    async def _instruct(self, process: trio.Process, order: bytes) -> None:
        assert process.stdin is not None
        try:
            await process.stdin.send_all(order)
            while True:
                await self._drain_wanted.wait()
                self._drain_wanted = trio.Event()
                await process.stdin.send_all(encode_line(DrainCommand(final=self._last_drain_wanted)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("%s reads no commands any more", str(self).capitalize())

    async def _read_reports(self, reports: socket.socket, all_read: trio.Event) -> None:
        lines = LineBuffer(LONGEST_REPORT)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(reports))
        try:
            while data := await stream.receive_some(_CHUNK):
                for line in lines.feed(data):
                    self._take(decode_report(line))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("%s reports nothing any more", str(self).capitalize())
        finally:
            all_read.set()

    def _take(self, report: Report | None) -> None:
        self._last_sign = trio.current_time()
        match report:
            case Starting():
                self._starting.set()
            case Ready():
                self._take_ready()
            case Draining() if self.state in (WorkerState.STARTING, WorkerState.READY):
                self._enter(WorkerState.DRAINING)
                self._limit_leaving(report.grace)
                self._leaving.set()
                self._post(WorkerDraining(self, report.reason, report.is_planned))
            case Stopped():
                self._leaving.set()
                self._finished.set()
            case Failed():
                self.failure = report
                self.lacked_room = report.lacked_room
                self._leaving.set()
                self._finished.set()
            case Heartbeat() | Draining():
                pass  # it only shows that the loop runs
            case None:
                logger.debug("%s reported something that is not a report", str(self).capitalize())

    def _take_ready(self) -> None:
        if self.ready_at is not None:
            return
        self.ready_at = self._last_sign
        self._ready.set()
        if self.state is WorkerState.STARTING:
            self._enter(WorkerState.READY)
            self._post(WorkerReady(self))

    async def _watch_startup(self) -> None:
        """Kill a worker whose start-up blocks its loop. Otherwise the loop watches the deadline."""
        timeout = self._config.timeout_startup
        await self._starting.wait()
        with trio.move_on_after(timeout + MARGIN):
            await self._ready.wait()
        # This process may have been suspended. Read first what has come meanwhile.
        await trio.sleep(heartbeat_interval(self._config.timeout_worker))
        while self.state is WorkerState.STARTING and not self._finished.is_set():
            if self._silence() >= MARGIN:
                self._end_startup(timeout)
                return
            await trio.sleep(MARGIN)

    def _end_startup(self, timeout: float) -> None:
        why = f"did not complete its start-up within {timeout:g} s and {MARGIN:g} s more (--timeout-startup)"
        self.kill(why)
        if self.killed is not None:
            reason = f"the application {why}: it blocks the loop"
            self.failure = Failed(reason=reason, permanent=True, status=int(ExitStatus.NOT_STARTED))

    async def _watch_heart(self) -> None:
        """Kill a serving worker whose loop is blocked."""
        timeout = self._config.timeout_worker
        await self._ready.wait()
        while self.state is WorkerState.READY:
            await trio.sleep_until(self._last_sign + timeout)
            # This process may have been suspended (the machine slept, SIGSTOP). Read first what has come
            # meanwhile.
            await trio.sleep(heartbeat_interval(timeout))
            if self.state is WorkerState.READY and self._silence() >= timeout:
                self.kill(f"has given no sign of life for {timeout:g} s (--timeout-worker)")
                return

    def _limit_leaving(self, grace: float) -> None:
        """Let the worker end within `grace` seconds and a margin, unless it has less already."""
        deadline = trio.current_time() + grace + MARGIN
        if deadline < self._leaving_scope.deadline:
            self._leaving_scope.deadline = deadline
            self._grace = grace

    async def _watch_leaving(self) -> None:
        """Kill a worker that does not end in time."""
        await self._leaving.wait()
        with self._leaving_scope:
            await self._finished.wait()
        if not self._finished.is_set() and self._silence() < MARGIN:
            # Its loop runs: the application shuts down, which has a deadline of its own.
            with trio.move_on_after(self._config.timeout_shutdown):
                await self._finished.wait()
        if self._finished.is_set():
            await trio.sleep(MARGIN)
            self.kill("has stopped serving but does not end (is it waiting for a thread?)")
        else:
            self.kill(f"did not stop within {self._grace:g} s and {MARGIN:g} s more")

    def _silence(self) -> float:
        return trio.current_time() - self._last_sign
