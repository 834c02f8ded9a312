"""What a server is built around: the application with its lifespan, its background tasks, and its drain."""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.asgi.background import Background, ServerNursery, SharedDict
from trioasgi.asgi.http import Application
from trioasgi.asgi.lifespan import Lifespan
from trioasgi.errors import LifespanError, TrioasgiError
from trioasgi.nurseries import LAST_MOMENTS, guard_nurseries
from trioasgi.server.application import as_asgi
from trioasgi.server.assembly import (
    access_log,
    connection_settings,
    door,
    forwarding,
    loop_latency,
    max_requests,
    websocket_settings,
)
from trioasgi.server.drain import Drain
from trioasgi.server.flat_errors import FlatErrors, with_earlier
from trioasgi.server.gate import WITHOUT_SUPERVISOR
from trioasgi.server.handshakes import FailedHandshakes
from trioasgi.server.progress import ServerPhase
from trioasgi.server.thread_limit import allowing_threads
from trioasgi.tasks import start, start_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sized
    from contextvars import Context

    from trioasgi.config import Config
    from trioasgi.server.assembly_tls import Loaded
    from trioasgi.server.gate import UnderSupervisor
    from trioasgi.server.given import Given
    from trioasgi.server.handle import Server
    from trioasgi.server.progress import Progress
    from trioasgi.server.settings import ConnectionSettings, LiveTLS
    from trioasgi.tls.rotation import Rotation
    from trioasgi.types import ASGIApp

    Serve = Callable[[trio.Nursery], Awaitable[None]]
    OnStuck = Callable[[TrioasgiError], None]
    """Called if the lifespan call of the application does not end, in a process that belongs to the server.
    The error is the reason why the server stops, or says that the call keeps it from ending.
    """

logger = logging.getLogger("trioasgi")


class Hosting:
    """Runs the application for `server`, from its start-up to its shutdown, and notes the `progress`.
    `supervised` has what it leaves to a supervisor.

    Raises TLSError.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        given: Given,
        server: Server,
        progress: Progress,
        on_stuck: OnStuck | None = None,
        supervised: UnderSupervisor = WITHOUT_SUPERVISOR,
    ) -> None:
        self.config = config
        self._supervised = supervised
        self.progress = progress
        self.access_log = access_log(config)
        self._lost: TrioasgiError | None = None
        """An error that is only logged, because the server was cancelled meanwhile."""
        self._on_stuck = on_stuck
        self._websocket = websocket_settings(config)
        self.latency = loop_latency(config)
        """How late the loop is; None if nothing depends on it."""
        self._tls: LiveTLS | None = None
        self._rotation: Rotation[Loaded] | None = None
        if config.has_tls:
            from trioasgi.server.assembly_tls import live_tls  # most servers do not need it

            self._tls, self._rotation = live_tls(config)
            progress.renew_certificate = self._rotation.ask
        self._admission = given.admission
        self.failed_handshakes = FailedHandshakes()
        progress.failed_handshakes = self.failed_handshakes.counts
        self._background = Background(server)
        app = as_asgi(app, config.interface, threads=config.threads, multiprocess=config.workers > 1)
        self._app = app
        self._lifespan = Lifespan(
            app,
            config.lifespan,
            startup_timeout=config.timeout_startup,
            shutdown_timeout=config.timeout_shutdown,
            extensions={
                "trio": SharedDict(
                    nursery=ServerNursery(self._background),
                    draining=self._background.draining,
                    server=server,
                )
            },
            state=given.state,
        )
        self.drain = Drain(progress, self._background, shutdown=config.timeout_shutdown)

    @enable_ki_protection  # what it begins must end
    async def run(self, serve: Serve, give_up: Callable[[], None] = lambda: None) -> None:
        """Start the application, call `serve` with a nursery, and shut the application down, also if serving
        fails. If the start fails or is cancelled, call `give_up` at once in place of `serve`: the application
        may take long to end. What is raised is flat.
        """
        errors = FlatErrors()
        try:
            with errors, allowing_threads(self.config.threads):
                try:
                    await self._within_lifespan(serve, give_up)
                finally:
                    await self.drain.end_last_left_behind()
        finally:
            self.progress.end(errors.take() or self._lost)

    async def _within_lifespan(self, serve: Serve, give_up: Callable[[], None]) -> None:
        failure: TrioasgiError | None = None
        guard_nurseries()
        try:
            async with trio.open_nursery() as nursery:
                self.progress.nurseries.add(nursery)
                try:
                    await start(nursery, self._background.hold_open)
                    try:
                        await self._lifespan.startup(nursery)
                    except BaseException:
                        give_up()
                        raise
                    try:
                        if self._websocket is not None:
                            await start(nursery, self._websocket.keepalive.keep_ticking)
                        if self.latency is not None:
                            start_soon(nursery, self.latency.watch)
                        if self._rotation is not None:
                            start_soon(nursery, self._watch_certificate, self._rotation)
                            start_soon(nursery, self.failed_handshakes.sum_up, self.progress.draining)
                        try:
                            await serve(nursery)
                        finally:
                            self.progress.enter(ServerPhase.STOPPING)
                            await self.drain.end_left_behind()
                    finally:
                        try:
                            await self.drain.end_background()
                        finally:  # Ctrl-C may come anywhere
                            self.progress.shuts_down = True
                            self._supervised.on_shutdown()
                            await self._lifespan.shutdown()
                except TrioasgiError as exc:
                    # Raised outside of the nursery, which would put it into a group.
                    failure = exc
                finally:
                    self._lifespan.stop()  # it has ended, unless Ctrl-C has skipped that
                    if not await self._lifespan.wait_over(LAST_MOMENTS):
                        self._report_stuck(failure)
                nursery.cancel_scope.cancel()
        except BaseException:
            if failure is not None:
                # Another exception is being raised already, so this one is only logged.
                self._lost = failure
                logger.log(logging.ERROR, "%s", failure, exc_info=failure.__cause__)
            raise
        if failure is not None:
            raise with_earlier(failure)

    def _report_stuck(self, failure: TrioasgiError | None) -> None:
        """Report a lifespan call that does not end. The nursery waits for it, so `serve` cannot raise."""
        logger.error(
            "the application's lifespan call does not end though it was cancelled: it shields what it waits "
            "for. The server cannot end either"
        )
        if failure is None:
            failure = LifespanError("the application's lifespan call does not end")
        elif self._on_stuck is None:
            logger.error("%s", failure, exc_info=failure.__cause__)
        if self._on_stuck is not None:
            self._on_stuck(failure)

    async def drain_if_lifespan_crashes(self) -> None:
        """Wait for a crash of the application's lifespan call, and let the server drain then."""
        await self._lifespan.crashed.wait()
        logger.error("%s; the server stops", self._lifespan.what_failed)  # the error is raised at the end
        self.progress.begin_drain()

    def context(self) -> Context:
        """The context variables with which each call begins."""
        # Requests see the context variables of the lifespan, or of the program that embeds the server.
        return self._lifespan.context or copy_context()

    async def _watch_certificate(self, rotation: Rotation[Loaded]) -> None:
        from trioasgi.observe.startup import announce_new_certificates

        await rotation.watch(self.progress.draining, announce_new_certificates)

    def application(self) -> Application:
        """The application, for the server's connections."""
        config = self.config
        return Application(
            self._app,
            state=self._lifespan.state,
            root_path=config.root_path,
            pathsend=config.pathsend,
            forwarding=forwarding(config),
            access_log=self.access_log,
            door=door(config, self.latency),
            max_requests=max_requests(config),
            on_max_requests=self._on_max_requests,
            websocket=self._websocket,
            background=self._background,
        )

    def connection_settings(self, application: Application) -> ConnectionSettings:
        """The settings of the server's connections."""
        return connection_settings(
            self.config,
            tls=self._tls,
            handler=application.http_handler,
            access_log=self.access_log,
            admission=self._admission,
            failed_handshakes=self.failed_handshakes,
        )

    def _on_max_requests(self) -> None:
        if self._supervised.on_limit is not None:
            self._supervised.on_limit()
            return
        logger.info("the limit of requests for one worker is reached (--limit-max-requests); it stops")
        self.progress.has_reached_limit = True
        self.progress.begin_drain()


class Counting:
    """What a server counts: `application` its calls, `connections` themselves."""

    def __init__(self, application: Application, connections: Sized) -> None:
        self._application = application
        self._connections = connections

    @property
    def connections(self) -> int:
        """See `Counts`."""
        return len(self._connections)

    @property
    def calls(self) -> int:
        """See `Counts`."""
        return self._application.active

    @property
    def requests(self) -> int:
        """See `Counts`."""
        return self._application.ended
