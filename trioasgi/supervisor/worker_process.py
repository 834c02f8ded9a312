"""One worker process, from its start to its end, as the supervisor sees it.

It is started with an order on its stdin, says that it is ready, and serves until it is told to drain, or
drains by itself; its end is the end of its process, however that comes about. It never goes back to an
earlier state: what serves next is another worker. There are deadlines for the application's start-up, for the
silence of a worker that serves, and for the drain; after them the process is killed.
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
    Drain,
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
"""Seconds that a worker gets beyond each deadline that it keeps itself, before it is killed."""
_LAST_WORDS = 0.5
"""Seconds to read what a worker has reported before it ended (its children may hold the socket open)."""
_REAPING = 5.0
"""Seconds that the kernel gets to end a process that was killed."""
_CHUNK = 1 << 16
_NO_ROOM = NO_ROOM | {errno.EAGAIN}
"""What the system says where it has no room: fork() of processes, too."""
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP})
"""What it says of an interpreter or a directory that cannot be used, however often that is tried."""


class WorkerState(Enum):
    """Where a worker is in its life."""

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
    """The worker has stopped accepting without having been asked to by us."""

    worker: WorkerProcess
    reason: str


class WorkerEnded(msgspec.Struct, frozen=True):
    """The process is gone; what it left is in the worker's attributes."""

    worker: WorkerProcess


WorkerEvent: TypeAlias = WorkerReady | WorkerDraining | WorkerEnded
"""What a worker tells the supervisor: each at most once, and WorkerEnded always, as the last."""


class WorkerProcess:
    """A worker; `run` is its life, everything else may be called at any moment of it.

    `config` goes to the worker as it is, `sockets` are the listening ones, `terminal` the fd of a terminal or
    None, `directory` where the worker works, also if that was removed and made anew meanwhile. `post` is
    called, in the supervisor's loop, with each WorkerEvent.
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
        """What the worker, or the attempt to start it, said of its failure."""
        self.lacked_room = False
        """Whether it could not be started for want of descriptors, memory or processes: that may pass."""
        self.killed: str | None = None
        """Why we killed it, if we did."""
        self.begun_at = trio.current_time()
        self.ready_at: float | None = None
        """Both on Trio's clock."""
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
        self._finished = trio.Event()

    def __str__(self) -> str:
        return f"worker {self.pid or '(not started)'}"

    async def run(self) -> None:
        """Start the process and stay with it until it has ended; when cancelled, kill it.

        Never raises but for cancellation: what goes wrong is in `failure`, `killed` and `exit_status`.
        """
        try:
            if self.state is WorkerState.STARTING:  # and not told to stop before it could start
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
        # RuntimeError is what Python says where there is no room for a thread, or from fork().
        self.lacked_room = not isinstance(error, OSError) or error.errno in _NO_ROOM
        hint = "; raise the limits of open files and processes" if self.lacked_room else ""
        reason = f"a worker could not be started: {error}{hint}"
        is_refused = isinstance(error, OSError) and error.errno in _REFUSED
        status = ExitStatus.NOT_STARTED if is_refused else ExitStatus.FAILED
        self.failure = Failed(reason=reason, permanent=is_refused, status=int(status))

    def drain(self, *, final: bool = False) -> None:
        """Ask the worker to stop; it is killed if it does not in time. May be called more than once.

        `final`: no other worker goes on accepting.
        """
        self._last_drain_wanted = self._last_drain_wanted or final
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            self._enter(WorkerState.DRAINING)
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
        """Whether it failed, had to be killed, or had to cut requests short."""
        if self.failure is not None or self.killed is not None:
            return True
        # A process manager may send its SIGTERM to the workers as well, and a terminal its SIGINT: one that
        # has not begun to serve, or has stopped already, has nothing to finish.
        had_nothing_to_do = self.ready_at is None or self._finished.is_set()
        good = (None, 0, -signal.SIGTERM, -signal.SIGINT) if had_nothing_to_do else (None, 0)
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
                await process.stdin.send_all(encode_line(Drain(final=self._last_drain_wanted)))
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
            case Draining(reason) if self.state in (WorkerState.STARTING, WorkerState.READY):
                self._enter(WorkerState.DRAINING)
                self._leaving.set()
                self._post(WorkerDraining(self, reason))
            case Stopped():
                self._leaving.set()
                self._finished.set()
            case Failed():
                self.failure = report
                self.lacked_room = report.lacked_room
                self._leaving.set()
                self._finished.set()
            case Heartbeat() | Draining():
                pass  # that it came is all it says
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
        """Kill a worker whose start-up blocks the loop, which keeps the deadline otherwise."""
        timeout = self._config.timeout_startup
        await self._starting.wait()
        with trio.move_on_after(timeout + MARGIN):
            await self._ready.wait()
        # It may be we who stood still: read first what has come meanwhile.
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
        """Kill a worker that serves and whose loop does not run any more."""
        timeout = self._config.timeout_worker
        await self._ready.wait()
        while self.state is WorkerState.READY:
            await trio.sleep_until(self._last_sign + timeout)
            # It may be we who stood still (a suspended machine, SIGSTOP): read first what has come meanwhile.
            await trio.sleep(heartbeat_interval(timeout))
            if self.state is WorkerState.READY and self._silence() >= timeout:
                self.kill(f"has given no sign of life for {timeout:g} s (--timeout-worker)")
                return

    async def _watch_leaving(self) -> None:
        """Kill a worker that has to go and does not."""
        await self._leaving.wait()
        grace = self._config.timeout_graceful_shutdown
        with trio.move_on_after(grace + MARGIN):
            await self._finished.wait()
        if not self._finished.is_set() and self._silence() < MARGIN:
            # Its loop runs: it is in the application's shutdown, which has a deadline of its own.
            with trio.move_on_after(self._config.timeout_shutdown):
                await self._finished.wait()
        if self._finished.is_set():
            await trio.sleep(MARGIN)
            self.kill("has stopped serving but does not end (is it waiting for a thread?)")
        else:
            self.kill(f"did not stop within {grace:g} s and {MARGIN:g} s more")

    def _silence(self) -> float:
        return trio.current_time() - self._last_sign
