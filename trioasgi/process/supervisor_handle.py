"""`SupervisorHandle`: how a program watches and controls a supervisor that is a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.config.bounded import MOST_WORKERS
from trioasgi.errors import RollError
from trioasgi.net.listeners import socket_address
from trioasgi.net.redirecting import is_redirecting, redirecting_urls
from trioasgi.server.handle import NoPublicConstructor
from trioasgi.server.progress import ServerPhase
from trioasgi.supervisor.describing import worker_statuses
from trioasgi.supervisor.slots import Promise, RollWanted, ScaleWanted, StopWanted, SupervisorState

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from trioasgi.net.listeners import SocketAddress
    from trioasgi.supervisor.status import WorkerStatus
    from trioasgi.supervisor.supervisor import Supervisor


class SupervisorHandle(metaclass=NoPublicConstructor):
    """A supervisor in this Trio run: what `await nursery.start(trioasgi.supervise, "app:app")` gives.

    Its methods are for tasks of the same Trio run. From another thread call
    `trio.from_thread.run_sync(supervisor.begin_drain, trio_token=token)`.
    """

    _SOURCE = '`await nursery.start(trioasgi.supervise, "app:app")` gives one'

    def __init__(self, supervisor: Supervisor, sockets: Sequence[socket.socket], urls: Sequence[str]) -> None:
        self._supervisor = supervisor
        served = [sock for sock in sockets if not is_redirecting(sock)]
        self._addresses: tuple[SocketAddress, ...] = tuple(map(socket_address, served))
        self._urls = tuple(urls)
        self._redirecting_urls = tuple(redirecting_urls(sockets))
        self._closed = trio.Event()
        self._error: BaseException | None = None
        self._has_cut = False
        self._was_asked = False
        self._token = trio.lowlevel.current_trio_token()

    def __repr__(self) -> str:
        count = 0 if self._closed.is_set() else len(self._supervisor.workers.slots)
        workers = "1 worker" if count == 1 else f"{count} workers"
        return f"<trioasgi.SupervisorHandle on {', '.join(self.urls)}: {self.phase.value}, {workers}>"

    # What it is

    @property
    def addresses(self) -> tuple[SocketAddress, ...]:
        """What `getsockname()` gives for the listening sockets."""
        return self._addresses

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the listening sockets, for a client on this machine."""
        return self._urls

    @property
    def redirecting_urls(self) -> tuple[str, ...]:
        """The URLs of its sockets that only redirect to https (`redirect_bind`)."""
        return self._redirecting_urls

    # What it does

    @property
    def phase(self) -> ServerPhase:
        """SERVING, DRAINING or CLOSED."""
        if self._closed.is_set():
            return ServerPhase.CLOSED
        is_running = self._supervisor.state is SupervisorState.RUNNING and not self._was_asked
        return ServerPhase.SERVING if is_running else ServerPhase.DRAINING

    @property
    def workers(self) -> tuple[WorkerStatus, ...]:
        """The workers that there are now, and the slots that wait for one."""
        return () if self._closed.is_set() else tuple(worker_statuses(self._supervisor.workers))

    @property
    def is_rolling(self) -> bool:
        """Is a roll under way?"""
        return self._supervisor.is_rolling

    @property
    def error(self) -> BaseException | None:
        """Why it has ended: what `supervise` has raised. None if it was drained or cancelled, or has not
        ended.
        """
        return self._error

    @property
    def has_cut(self) -> bool:
        """When it has ended: was a worker killed, or were requests cancelled at the end of the grace?"""
        return self._has_cut

    async def wait_closed(self) -> None:
        """Wait until it has ended, for whatever reason, and every worker too.

        Raises nothing if it has failed: see `error`. Raises RuntimeError in another Trio run.
        """
        self._refuse_other_run("wait_closed")
        await self._closed.wait()

    # What a program tells it

    async def roll(self) -> None:
        """Replace all workers, one after the other, and return when that is done. The options stay; the
        application, its environment file and certificates are read anew.

        If it is cancelled, the roll goes on. If two are asked for, both return when the second is done.

        Raises:
          RollError: A new worker has failed, or the supervisor drains. The message is the reason.
          RuntimeError: This is another Trio run.
        """
        self._refuse_other_run("roll")
        promise = Promise()
        self._supervisor.post(RollWanted(promise))
        failure = await promise.wait()
        if failure is not None:
            raise RollError(failure)

    def scale(self, workers: int) -> None:
        """Have so many workers. New ones start, or the last ones drain, after this returns. When the
        supervisor drains, it has no effect.

        Raises ValueError for a number below 1 or above 1000, and RuntimeError in another Trio run.
        """
        self._refuse_other_run("scale")
        if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MOST_WORKERS:
            raise ValueError(f"workers must be an integer from 1 to {MOST_WORKERS}, not {workers!r}")
        self._supervisor.post(ScaleWanted(workers, Promise()))

    async def drain(self, grace: float | None = None) -> None:
        """Stop accepting, let requests finish within the grace, end the workers, and return when all that is
        done.

        Args:
          grace: Seconds that requests have, in place of `timeout_graceful_shutdown`. If it drains already, it
              can only shorten what is left. 0 cuts them now.

        Raises:
          RuntimeError: This is another Trio run.
          ValueError: `grace` is negative.
        """
        self._refuse_other_run("drain")
        self.begin_drain(grace)
        await self._closed.wait()

    def begin_drain(self, grace: float | None = None) -> None:
        """Begin to drain, and do not wait. `grace` and the errors are as for `drain`."""
        self._refuse_other_run("begin_drain")
        if grace is not None and not grace >= 0:
            raise ValueError(f"grace must be a number of seconds, at least 0, not {grace!r}")
        seconds = None if grace is None else float(grace)
        self._was_asked = True
        self._supervisor.post(StopWanted("Stopping: the program has asked for it", seconds))

    def _refuse_other_run(self, name: str) -> None:
        if self._closed.is_set():
            return
        if not trio.lowlevel.in_trio_run() or trio.lowlevel.current_trio_token() is not self._token:
            raise RuntimeError(
                f"{name}() was called outside of the supervisor's Trio run. In a thread call "
                "trio.from_thread.run_sync(supervisor.begin_drain), and elsewhere "
                "token.run_sync_soon(supervisor.begin_drain), with that run's "
                "trio.lowlevel.current_trio_token()"
            )


@enable_ki_protection
def note_end(handle: SupervisorHandle, error: BaseException | None, *, has_cut: bool) -> None:
    """Note that the supervisor has ended, and why. Tasks that wait for it go on."""
    handle._error = None if isinstance(error, trio.Cancelled) else error
    handle._has_cut = has_cut
    handle._closed.set()
