"""One process's run of the server: how it is asked to stop, and how its failure is told.

What the only process (`process/run.py`) and a worker (`worker/work.py`) have in common. A run passes through
its stages in one direction (`STAGE_TRANSITIONS`); it may be asked to drain and to end from its loop, a thread
or a signal handler, and does so in the loop.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from trioasgi.errors import ExitStatus, LifespanError, TrioasgiError
from trioasgi.net.accept import NO_ROOM
from trioasgi.observe.errors import asyncio_hint
from trioasgi.observe.text import cut, tidy
from trioasgi.observe.tracebacks import user_traceback
from trioasgi.process.signals import wake_no_loop
from trioasgi.server.serve import serve_alone, serve_copies

if TYPE_CHECKING:
    from trioasgi.asgi.types import ASGIApp
    from trioasgi.config import Config
    from trioasgi.server.handle import Server

logger = logging.getLogger("trioasgi")


class Stage(Enum):
    """How far a run of the server has come."""

    LOADING = "loading"
    """No loop runs yet."""
    STARTING = "starting"
    """The application's lifespan start-up."""
    SERVING = "serving"
    DRAINING = "draining"
    ABORTED = "aborted"
    """Cancelled: it ends as soon as the application lets it."""
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
    """One `serve()` that can be asked to drain, and to end, from its loop, a thread or a signal handler.

    `sockets` are a worker's copies of those that the supervisor has bound; `on_serving` and `on_draining`
    (given the reason) are called in the loop; and so is `on_stuck`, in a process that is the server's own, if
    the application keeps the server from ending.
    """

    def __init__(
        self,
        config: Config,
        *,
        sockets: Sequence[socket.socket] | None = None,
        on_serving: Callable[[], None] = lambda: None,
        on_draining: Callable[[str], None] = lambda _: None,
        on_stuck: Callable[[Failure], None] | None = None,
    ) -> None:
        self.stage = Stage.LOADING
        self.has_served = False
        self._config = config
        self._sockets = sockets
        self._on_serving = on_serving
        self._on_draining = on_draining
        self._on_stuck = None if on_stuck is None else partial(self._report_stuck, on_stuck)
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._server: Server | None = None
        self._was_asked = False
        self._early: list[Callable[[], None]] = []
        """What was asked for before there was a loop."""

    async def run(self, app: ASGIApp, *beside: Callable[[], Awaitable[None]]) -> ExitStatus:
        """Serve until drained (OK, or FAILED if requests were cut; LIMIT_REACHED if nobody has asked) or
        aborted (FAILED), and run the functions `beside` as long. To be the main task of the loop.

        Raises what `serve` raises, in an ExceptionGroup.
        """
        self._token = trio.lowlevel.current_trio_token()
        self._enter(Stage.STARTING)
        for early in self._early:
            self._token.run_sync_soon(early)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for function in beside:
                        nursery.start_soon(function)
                    await self._serve(app)
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
        if self._server is not None and self._server.has_reached_limit and not self._was_asked:
            return ExitStatus.LIMIT_REACHED
        return ExitStatus.OK

    async def _serve(self, app: ASGIApp) -> None:
        async with trio.open_nursery() as nursery:
            if self._sockets is None:
                start = partial(serve_alone, app, self._config, on_stuck=self._on_stuck)
            else:
                start = partial(serve_copies, app, self._config, self._sockets, on_stuck=self._on_stuck)
            self._server = await nursery.start(start)
            if self.stage is Stage.STARTING:  # and not asked to end in the meantime
                self._enter(Stage.SERVING)
            self.has_served = True
            self._on_serving()
            await self._server.wait_draining()
            if self.stage is Stage.SERVING:  # nobody asked: a limit was reached, or the lifespan has ended
                self._enter(Stage.DRAINING)
                self._on_draining("by itself")

    def request_drain(self, reason: str, *, final: bool = False) -> bool:
        """Ask to finish what runs and end; False if there is no loop to be asked: any more, or yet, and then
        it is done as the first thing.

        `final` tells a worker that the others stop as well. May be asked again, with or without.
        """
        return self._call_soon(partial(self._drain, reason, final=final))

    def request_abort(self, reason: str) -> bool:
        """Ask to end at once; False as for `request_drain`."""
        return self._call_soon(partial(self._abort, reason))

    def answers(self, seconds: float) -> bool:
        """Whether the loop does something in this time; to be asked by another thread."""
        answered = threading.Event()
        return self._call_soon(answered.set) and answered.wait(seconds)

    def _call_soon(self, function: Callable[[], None]) -> bool:
        if self._token is None:
            self._early.append(function)
            return False
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    def _drain(self, reason: str, *, final: bool) -> None:
        is_first, self._was_asked = not self._was_asked, True
        match self.stage:
            case Stage.STARTING:
                self._enter(Stage.DRAINING)
                logger.info("Stopping before the start was over: %s", reason)
                self._scope.cancel()  # nothing is in progress that could be finished
            case Stage.SERVING:
                assert self._server is not None
                self._enter(Stage.DRAINING)
                logger.info("Stopping: %s", reason)
                self._on_draining(reason)
                self._begin_drain(self._server, final=final)
            case Stage.DRAINING if self._server is not None:
                if is_first:  # it has begun to stop by itself
                    logger.info("Stopping already: %s", reason)
                self._begin_drain(self._server, final=final)
            case Stage.LOADING | Stage.DRAINING | Stage.ABORTED | Stage.ENDED:
                pass

    @staticmethod
    def _begin_drain(server: Server, *, final: bool) -> None:
        if final:
            server.begin_last_drain()
        else:
            server.begin_drain()

    def _abort(self, reason: str) -> None:
        if self.stage is not Stage.ENDED:
            logger.warning("%s: ending at once", reason)
            if self.stage is not Stage.ABORTED:
                self._enter(Stage.ABORTED)
            self._scope.cancel()


class Failure(msgspec.Struct, frozen=True):
    """An exception that ended a run, for people and for the exit status."""

    message: str
    status: ExitStatus
    permanent: bool
    """Whether starting again would not help."""


def explain(error: BaseException, *, has_served: bool) -> Failure:
    """Tell how `error`, an exception or a group of them, ended the run.

    An error of ours is its message, as is the want of descriptors; anything else is unexpected and keeps its
    traceback. What happens once requests were served is a failure (1), whatever it would have been during the
    start (3, permanent).
    """
    leaves = [_without_room(leaf) or leaf for leaf in _leaves(error)]
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


def is_want_of_room(error: BaseException) -> bool:
    """Whether the system has no room for another file."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _without_room(error: BaseException) -> TrioasgiError | None:
    """The error that says what to do where there is no room: it may be any file or module that is opened."""
    if not is_want_of_room(error):
        return None
    return TrioasgiError(f"the server cannot go on: {error}; raise the limit of open files")


def _message(error: TrioasgiError) -> str:
    text = tidy(cut(str(error)))
    if not isinstance(error, LifespanError):
        return text
    # Either the user's code has raised, or its framework has sent the traceback as the reason.
    cause = error.__cause__
    hint = None if cause is None else asyncio_hint(cause)
    parts = (text, None if cause is None else tidy(user_traceback(cause)), hint)
    return "\n\n".join(part for part in parts if part)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
