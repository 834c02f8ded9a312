"""One run of the server in a process: how it is asked to stop, and how its failure is reported.

A single process (`process/run.py`) and a worker (`worker/work.py`) share this. A run passes through its
stages in one direction (`STAGE_TRANSITIONS`). Its loop, a thread or a signal handler may ask it to drain or
to end, and it does so in the loop.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from trioasgi.errors import ExitStatus, LifespanError, TrioasgiError, is_want_of_room, leaves_of
from trioasgi.net.address import new_mode
from trioasgi.observe.errors import asyncio_hint
from trioasgi.observe.startup import STOP_HINT
from trioasgi.observe.text import cut, tidy
from trioasgi.observe.tracebacks import user_traceback
from trioasgi.process.paths import anchored, current_directory
from trioasgi.process.signals import wake_no_loop
from trioasgi.server.gate import WITHOUT_SUPERVISOR
from trioasgi.server.handle import begin_last_drain, grace_of, shuts_down
from trioasgi.server.serve import serve_alone, serve_copies
from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.server.gate import UnderSupervisor
    from trioasgi.server.handle import Server
    from trioasgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

OnDraining = Callable[[str, float, bool], None]
"""Takes the reason of a drain, the seconds that requests have, and whether the drain was planned: a limit is
reached, or someone outside of the application has asked.
"""


class Stage(Enum):
    """How far a run of the server has come."""

    LOADING = "loading"
    """No loop runs yet."""
    STARTING = "starting"
    """The application's lifespan start-up."""
    SERVING = "serving"
    DRAINING = "draining"
    ABORTED = "aborted"
    """Cancelled: it ends as soon as the application has ended."""
    ENDED = "ended"


STAGE_TRANSITIONS: Mapping[Stage, Mapping[Stage, str]] = {
    Stage.LOADING: {Stage.STARTING: "the application is loaded, the loop runs"},
    Stage.STARTING: {
        Stage.SERVING: "its start-up is complete",
        Stage.DRAINING: "asked to stop",
        Stage.ABORTED: "asked to end at once",
        Stage.ENDED: "its start-up has failed",
    },
    Stage.SERVING: {
        Stage.DRAINING: "asked to stop, or a limit is reached",
        Stage.ABORTED: "asked to end at once",
        Stage.ENDED: "it has failed",
    },
    Stage.DRAINING: {Stage.ABORTED: "asked to end at once", Stage.ENDED: "all is finished, or cut"},
    Stage.ABORTED: {Stage.ENDED: "the application has let it"},
    Stage.ENDED: {},
}
"""For each stage those that may follow, and when they do."""


class Lifecycle:
    """One `serve()`. Its loop, a thread or a signal handler may ask it to drain or to end. Make it before the
    application is imported: relative paths of `config` begin in the directory of that moment.

    `sockets` are a worker's copies of the supervisor's sockets. `on_serving` and `on_draining` are called in
    the loop. So is `on_stuck`, if the process belongs to the server and the application keeps it from ending.
    `supervised` has what a worker leaves to its supervisor.
    """

    def __init__(
        self,
        config: Config,
        *,
        sockets: Sequence[socket.socket] | None = None,
        on_serving: Callable[[], None] = lambda: None,
        on_draining: OnDraining = lambda _, __, ___: None,
        on_stuck: Callable[[Failure], None] | None = None,
        supervised: UnderSupervisor = WITHOUT_SUPERVISOR,
    ) -> None:
        self.stage = Stage.LOADING
        self.has_served = False
        self._config = config
        self._directory = current_directory()
        self._sockets = sockets
        self._on_serving = on_serving
        self._on_draining = on_draining
        self._supervised = supervised
        self._on_stuck = None if on_stuck is None else partial(self._report_stuck, on_stuck)
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self.root_task: trio.lowlevel.Task | None = None
        """The root of the loop's tasks, once it runs."""
        self._made: Server | None = None
        self._server: Server | None = None
        """`_made`, once it serves."""
        self._was_asked = False
        self._early: list[Callable[[], None]] = []
        """Requests that came before the loop ran."""

    async def serve(self, app: ASGIApp, *beside: Callable[[], Awaitable[None]]) -> ExitStatus:
        """Serve until drained or aborted, and run the functions `beside` meanwhile. Call it as the loop's
        main task.

        Returns OK after a drain, FAILED if requests were cut or the run was aborted, and LIMIT_REACHED if the
        limit of requests has begun the drain. Raises what `server.serve` raises, in an ExceptionGroup.
        """
        self._config = anchored(self._config, self._directory)
        self._token = trio.lowlevel.current_trio_token()
        self.root_task = trio.lowlevel.current_root_task()
        self._enter(Stage.STARTING)
        for early in self._early:
            self._token.run_sync_soon(early)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for function in beside:
                        start_soon(nursery, function)
                    await self._serve_app(app)
                    nursery.cancel_scope.cancel()
            return self._status()
        finally:
            self._enter(Stage.ENDED)
            wake_no_loop()

    def _enter(self, stage: Stage) -> None:
        assert stage in STAGE_TRANSITIONS[self.stage], (self.stage, stage)
        self.stage = stage

    def _report_stuck(self, on_stuck: Callable[[Failure], None], error: TrioasgiError) -> None:
        on_stuck(explain(error, has_served=self.has_served))

    def _status(self) -> ExitStatus:
        if self.stage is Stage.ABORTED or (self._server is not None and self._server.has_cut):
            return ExitStatus.FAILED
        if self._made is not None and self._made.error is not None:
            return ExitStatus.FAILED  # only logged, as the run was cancelled before its start was over
        if self._server is not None and self._server.has_reached_limit and not self._was_asked:
            return ExitStatus.LIMIT_REACHED
        return ExitStatus.OK

    async def _serve_app(self, app: ASGIApp) -> None:
        async with trio.open_nursery() as nursery:
            if self._sockets is None:
                start = partial(
                    serve_alone,
                    app,
                    self._config,
                    on_stuck=self._on_stuck,
                    stop_hint=STOP_HINT,
                    owns_process=self._on_stuck is not None,
                    new_mode=new_mode(self._config.umask),
                )
            else:
                start = partial(
                    serve_copies,
                    app,
                    self._config,
                    self._sockets,
                    on_stuck=self._on_stuck,
                    supervised=self._supervised,
                )
            await start(on_made=self._note_made, task_status=_Told(partial(self._begin, nursery)))

    def _note_made(self, server: Server) -> None:
        self._made = server

    def _begin(self, nursery: trio.Nursery, server: Server) -> None:
        """Note that `server` serves. It calls this itself: a signal in the same step drains it already."""
        self._server = server
        if self.stage is Stage.STARTING:  # and not asked to end in the meantime
            self._enter(Stage.SERVING)
        self.has_served = True
        self._on_serving()
        start_soon(nursery, self._note_drain, server)

    async def _note_drain(self, server: Server) -> None:
        await server.wait_draining()
        if self.stage is Stage.SERVING:  # nobody asked: a limit was reached, or the lifespan has ended
            self._enter(Stage.DRAINING)
            self._on_draining("by itself", grace_of(server), server.has_reached_limit)

    @property
    def app_name(self) -> str | None:
        """The name of the application, if it has one."""
        return self._config.app

    @property
    def counts(self) -> tuple[int, int, int]:
        """The open connections, the calls under way, and the calls that have ended."""
        if self._server is None:
            return 0, 0, 0
        return self._server.connections, self._server.calls, self._server.requests

    def request_accept(self) -> bool:
        """Ask the run to accept connections, if it waits for that or is about to. False as for
        `request_drain`.
        """
        gate = self._supervised.gate
        return gate is not None and self.call_soon(gate.open)

    def request_drain(self, reason: str, *, final: bool = False, grace: float | None = None) -> bool:
        """Ask the run to finish its requests and end. False if no loop runs: if it does not run yet, the run
        drains as soon as it does.

        `final`: all other workers stop too. `grace`: seconds that requests have, in place of the option. This
        may be called again.
        """
        return self.call_soon(partial(self._drain, reason, final=final, grace=grace))

    def request_abort(self, reason: str) -> bool:
        """Ask the run to end at once. False as for `request_drain`."""
        return self.call_soon(partial(self._abort, reason))

    @property
    def server(self) -> Server | None:
        """The server, once it is made, which is before its application starts."""
        return self._made

    @property
    def shuts_down(self) -> bool:
        """Has the application's lifespan begun to shut down?"""
        return self._made is not None and shuts_down(self._made)

    def answers(self, seconds: float) -> bool:
        """Does the loop answer within `seconds`? Call it from another thread."""
        answered = threading.Event()
        return self.call_soon(answered.set) and answered.wait(seconds)

    def call_soon(self, function: Callable[[], None]) -> bool:
        """Have a function called in the loop. False if no loop runs: if it does not run yet, it is called
        when it does.
        """
        if self._token is None:
            self._early.append(function)
            return False
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    def _drain(self, reason: str, *, final: bool, grace: float | None) -> None:
        is_first, self._was_asked = not self._was_asked, True
        match self.stage:
            case Stage.STARTING:
                self._enter(Stage.DRAINING)
                logger.info("Stopping before the start was over: %s", reason)
                self._scope.cancel()  # no request is under way
            case Stage.SERVING:
                assert self._server is not None
                self._enter(Stage.DRAINING)
                logger.info("Stopping: %s", reason)
                limit = self._config.timeout_graceful_shutdown if grace is None else grace
                self._on_draining(reason, limit, True)
                self._begin_drain(self._server, final=final, grace=grace)
            case Stage.DRAINING if self._server is not None:
                if is_first:  # it has begun to stop by itself
                    logger.info("Stopping already: %s", reason)
                self._begin_drain(self._server, final=final, grace=grace)
            case Stage.LOADING | Stage.DRAINING | Stage.ABORTED | Stage.ENDED:
                pass

    def _begin_drain(self, server: Server, *, final: bool, grace: float | None) -> None:
        if server.has_drained and (final or self._sockets is None):  # everything stops, not only this worker
            # The application may have set itself a longer grace.
            server.begin_drain(self._config.timeout_graceful_shutdown)
        if final:
            begin_last_drain(server, grace)
        else:
            server.begin_drain(grace)

    def _abort(self, reason: str) -> None:
        if self.stage is not Stage.ENDED:
            logger.warning("%s: ending at once", reason)
            if self.stage is not Stage.ABORTED:
                self._enter(Stage.ABORTED)
            self._scope.cancel()


class _Told:
    """A `trio.TaskStatus` that passes the server on in the very step in which it has started.

    `nursery.start` returns a step later. By then clients are accepted that a stop must not cut.
    """

    def __init__(self, tell: Callable[[Server], None]) -> None:
        self._tell = tell

    def started(self, value: Server | None = None) -> None:
        """As `trio.TaskStatus.started`."""
        assert value is not None
        self._tell(value)


class Failure(msgspec.Struct, frozen=True):
    """An exception that ended a run, for people and for the exit status."""

    message: str
    status: ExitStatus
    permanent: bool
    """Would another start fail in the same way?"""


def explain(error: BaseException, *, has_served: bool) -> Failure:
    """Explain how `error`, an exception or a group, ended the run.

    For trioasgi's own errors the message is enough, and for a lack of descriptors. Others are unexpected, and
    are shown with their traceback. Once requests were served, the status is FAILED (1), even for an error
    that at the start would be permanent (3).
    """
    leaves = [_without_room(leaf) or leaf for leaf in leaves_of(error)]
    known = [leaf for leaf in leaves if isinstance(leaf, TrioasgiError)]
    if len(known) < len(leaves):
        what = " and ".join(cut(f"{type(leaf).__name__}: {leaf}", 1000) for leaf in leaves)
        message = f"the server failed unexpectedly with {what}\n\n{user_traceback(error)}"
        return Failure(message, ExitStatus.FAILED, permanent=False)
    message = "\n".join(dict.fromkeys(_message(leaf) for leaf in known))
    if has_served:
        return Failure(message, ExitStatus.FAILED, permanent=False)
    status = known[0].exit_status
    return Failure(message, status, permanent=status in (ExitStatus.NOT_STARTED, ExitStatus.USAGE))


def _without_room(error: BaseException) -> TrioasgiError | None:
    """The error that says what to do where there is no room: it may be any file or module that is opened."""
    if not is_want_of_room(error):
        return None
    return TrioasgiError(f"the server cannot go on: {error}; raise the limit of open files")


def _message(error: TrioasgiError) -> str:
    parts: list[str | None] = [tidy(cut(str(error)))]
    if error.__cause__ is not None:
        if isinstance(error, LifespanError):  # else the text has the traceback
            parts.append(tidy(user_traceback(error.__cause__)))
        parts.append(asyncio_hint(error.__cause__))
    return "\n\n".join(part for part in parts if part)
