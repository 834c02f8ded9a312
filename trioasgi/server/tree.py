"""The nursery tree of one worker.

::

    lifespan nursery  ─  connections nursery  ─  listeners nursery

Each outlives the one to its right. When the listeners' nursery ends, the connections drain. When their
nursery has ended, the application shuts down. No task runs outside this tree.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

import trio

from trioasgi.asgi.background import Background, ServerNursery
from trioasgi.asgi.http import Application
from trioasgi.asgi.lifespan import Lifespan
from trioasgi.errors import LifespanError, TrioasgiError
from trioasgi.net.hub import Hub, supported
from trioasgi.nurseries import LAST_MOMENTS, guard_nurseries
from trioasgi.server.acceptor import Acceptor
from trioasgi.server.application import as_asgi
from trioasgi.server.assembly import (
    access_log,
    codec_factory,
    connection_settings,
    forwarding,
    max_requests,
    server_tls,
    websocket_settings,
)
from trioasgi.server.connections import Connections
from trioasgi.server.drain import Drain, abort_when_cancelled
from trioasgi.server.flat_errors import FlatErrors, with_earlier
from trioasgi.server.handle import Listening, Server
from trioasgi.server.thread_limit import allowing_threads

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.server.settings import ConnectionSettings
    from trioasgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

OnStuck = Callable[[TrioasgiError], None]
"""Called if the lifespan call of the application does not end, in a process that belongs to the server. The
error is the reason why the server stops, or says that the call keeps it from ending.
"""


class NurseryTree:
    """One run of the server: its nurseries, and what their tasks share."""

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        sockets: Sequence[socket.socket],
        listening: Listening,
        on_stuck: OnStuck | None = None,
        stop_hint: str | None = None,
    ) -> None:
        self._config = config
        self._on_stuck = on_stuck
        self._stop_hint = stop_hint
        self._announces = listening is Listening.ALONE
        self._websocket = websocket_settings(config)
        self._tls = server_tls(config)
        self._app = as_asgi(app, config.interface, threads=config.threads, multiprocess=config.workers > 1)
        self._background = Background()
        self._lifespan = Lifespan(
            self._app,
            config.lifespan,
            startup_timeout=config.timeout_startup,
            shutdown_timeout=config.timeout_shutdown,
            extensions={
                "trio": {
                    "nursery": ServerNursery(self._background),
                    "draining": self._background.draining,
                }
            },
        )
        self._server = Server(sockets, tls=self._tls is not None, listening=listening)
        # Another server may use an inherited socket too.
        owns_sockets = not any(bind.startswith("fd:") for bind in config.binds)
        self._acceptor = Acceptor(
            sockets, self._server.urls, backlog=config.backlog, owns_sockets=owns_sockets
        )
        self._access_log = access_log(config)
        self._drain = Drain(
            self._server,
            self._background,
            grace=config.timeout_graceful_shutdown,
            shutdown=config.timeout_shutdown,
        )

    async def serve(self, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled."""
        with FlatErrors(), allowing_threads(self._config.threads):
            try:
                await self._within_lifespan(partial(self._serve_sockets, task_status))
            finally:
                await self._drain.end_last_left_behind()
                self._server.end()

    async def serve_stream(self, stream: trio.abc.Stream, task_status: trio.TaskStatus[Server]) -> None:
        """Serve one stream, until it is closed, drained or cancelled."""
        with FlatErrors(), allowing_threads(self._config.threads):
            try:
                await self._within_lifespan(partial(self._serve_stream, stream, task_status))
            finally:
                await self._drain.end_last_left_behind()
                self._server.end()
                await trio.aclose_forcefully(stream)

    async def _within_lifespan(self, serve: Callable[[trio.Nursery], Awaitable[None]]) -> None:
        """Start the application, serve, and shut the application down, also if serving fails."""
        failure: TrioasgiError | None = None
        guard_nurseries()
        try:
            async with trio.open_nursery() as nursery:
                self._drain.nurseries.append(nursery)
                try:
                    await nursery.start(self._background.hold_open)
                    await self._lifespan.startup(nursery)
                    try:
                        if self._websocket is not None:
                            await nursery.start(self._websocket.keepalive.keep_ticking)
                        try:
                            await serve(nursery)
                        finally:
                            await self._drain.end_left_behind()
                    finally:
                        await self._drain.end_background()
                        await self._lifespan.shutdown()
                except TrioasgiError as exc:
                    # Raised outside of the nursery, which would put it into a group.
                    failure = exc
                finally:
                    if not await self._lifespan.wait_over(LAST_MOMENTS):
                        self._report_stuck(failure)
                nursery.cancel_scope.cancel()
        except BaseException:
            if failure is not None:
                # Another exception is being raised already, so this one is only logged.
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

    async def _serve_stream(
        self, stream: trio.abc.Stream, task_status: trio.TaskStatus[Server], _nursery: trio.Nursery
    ) -> None:
        async with self._open_connections() as (connections, busy, clock):
            clock.start_soon(self._drain_when_told, connections, busy.cancel_scope)
            connections.begin_given(stream)
            task_status.started(self._server)
        if not self._background.draining.is_set():
            self._drain.begin()

    async def _drain_when_told(self, connections: Connections, busy: trio.CancelScope) -> None:
        await self._server.wait_draining()
        connections.drain()
        self._drain.begin()
        await self._drain.cut_at_deadline(connections, busy)

    async def _serve_sockets(self, task_status: trio.TaskStatus[Server], nursery: trio.Nursery) -> None:
        if self._access_log is not None:
            nursery.start_soon(self._access_log.write_batches)
        if supported():
            self._acceptor.hub = Hub()
            # Not `nursery.start`: if that were cancelled, it would wait for the shielded task.
            nursery.start_soon(self._acceptor.hub.run)
        try:
            await self._serve_connections(task_status)
        finally:
            if self._acceptor.hub is not None:
                self._acceptor.hub.stop()

    async def _serve_connections(self, task_status: trio.TaskStatus[Server]) -> None:
        async with self._open_connections() as (connections, busy, clock):
            async with trio.open_nursery() as listening:
                self._acceptor.start(listening, connections)
                listening.start_soon(self._watch_lifespan)
                if self._announces:
                    self._announce()
                task_status.started(self._server)
                await self._server.wait_draining()
                listening.cancel_scope.cancel()
            self._acceptor.stop(connections, self._server.listening)
            connections.drain()
            self._drain.begin()
            clock.start_soon(self._drain.cut_at_deadline, connections, busy.cancel_scope)

    @asynccontextmanager
    async def _open_connections(self) -> AsyncIterator[tuple[Connections, trio.Nursery, trio.Nursery]]:
        """The connections, the nursery that runs them, and another nursery for as long. The block ends when
        the last connection has ended.
        """
        last_moments = trio.CancelScope(shield=True)
        async with trio.open_nursery() as clock:
            try:
                async with trio.open_nursery() as busy:
                    self._drain.nurseries.append(busy)
                    connections = self._connections(busy)
                    clock.start_soon(abort_when_cancelled, connections, last_moments)
                    yield connections, busy, clock
            finally:
                last_moments.cancel()
                clock.cancel_scope.cancel()

    async def _watch_lifespan(self) -> None:
        await self._lifespan.crashed.wait()
        logger.error("%s; the server stops", self._lifespan.error)
        self._server.begin_drain()

    def _connections(self, busy: trio.Nursery) -> Connections:
        """The connections that are served in `busy`."""
        # Requests see the context variables of the lifespan, or of the program that embeds the server.
        context = self._lifespan.context or copy_context()
        return Connections(self._connection_settings(), busy, context)

    def _connection_settings(self) -> ConnectionSettings:
        config = self._config
        application = Application(
            self._app,
            state=self._lifespan.state,
            root_path=config.root_path,
            forwarding=forwarding(config),
            access_log=self._access_log,
            concurrency=config.limit_concurrency,
            max_requests=max_requests(config),
            on_max_requests=self._on_max_requests,
            websocket=self._websocket,
            background=self._background,
        )
        return connection_settings(
            config, tls=self._tls, handler=application.http_handler, access_log=self._access_log
        )

    def _on_max_requests(self) -> None:
        logger.info("the limit of requests for one worker is reached (--limit-max-requests); it stops")
        self._server.has_reached_limit = True
        self._server.begin_drain()

    def _announce(self) -> None:
        from trioasgi.observe.startup import announce
        from trioasgi.server.codecs import websocket_codec_name

        certificate = None
        if self._config.certfile is not None:
            from trioasgi.tls.context import describe

            certificate = describe(self._config.certfile)
        announce(
            self._server.urls,
            workers=1,
            codec=codec_factory(self._config.http)().name,
            websocket=websocket_codec_name(self._config),
            certificate=certificate,
            stop_hint=self._stop_hint,
        )
