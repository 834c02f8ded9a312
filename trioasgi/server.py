"""`serve`: the nursery tree of one worker.

::

    lifespan nursery  ─  connections nursery  ─  listeners nursery

Each outlives the one to its right: when the listeners' nursery ends, connections drain; when theirs has
ended, the application is told to shut down. Nothing lives outside that tree.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

import trio

from trioasgi.asgi.background import Background, ServerNursery, report_left_behind
from trioasgi.asgi.http import Application
from trioasgi.asgi.lifespan import Lifespan
from trioasgi.asgi.wsgi import as_asgi
from trioasgi.assembly import (
    codec_factory,
    connection_settings,
    forwarding,
    max_requests,
    server_tls,
    websocket_settings,
)
from trioasgi.config import Config
from trioasgi.connection import Connections
from trioasgi.errors import ConfigError, LifespanError, LoadError, TrioasgiError
from trioasgi.loading import check_app
from trioasgi.nesting import LAST_MOMENTS, end_left_behind, guard_nurseries
from trioasgi.net.accept import accept_connections, accept_waiting
from trioasgi.net.hub import Hub, supported
from trioasgi.net.kernel import refuse_newcomers
from trioasgi.net.listeners import (
    close_listeners,
    open_listeners,
    remove_paths,
    socket_address,
    socket_url,
)
from trioasgi.net.peers import as_client, as_peer, fixed_address
from trioasgi.net.stream import HubStream
from trioasgi.observe.access import access_log
from trioasgi.observe.startup import log_remarks

if TYPE_CHECKING:
    from trioasgi.asgi.types import ASGIApp
    from trioasgi.connection import ConnectionSettings
    from trioasgi.net.listeners import SocketAddress

logger = logging.getLogger("trioasgi")


class Listening(Enum):
    """Who accepts from the listening sockets, which decides what becomes of them when the server drains."""

    FOR_CALLER = "they stay open: closing them is the caller's affair"
    WITH_OTHERS = "this process's copies are closed; what waits in the queues is for the other workers"
    ALONE = "what waits in the queues is taken, then they are closed: further clients are refused"


class Server:
    """A server that accepts connections: what `nursery.start(serve, …)` returns.

    `addresses` are those of its listening sockets as `getsockname()` gives them, `urls` how a client of this
    machine reaches them.
    """

    def __init__(self, sockets: Sequence[socket.socket], *, tls: bool, listening: Listening) -> None:
        self.addresses: tuple[SocketAddress, ...] = tuple(socket_address(sock) for sock in sockets)
        self.urls = tuple(socket_url(sock, tls) for sock in sockets)
        self.has_cut = False
        """Whether requests, or tasks of the application, were cancelled at the end of the grace."""
        self.has_reached_limit = False
        """Whether it stops as it has served `limit_max_requests` requests."""
        self._listening = listening
        self._draining = trio.Event()
        self._ended = trio.Event()

    async def drain(self) -> None:
        """Stop accepting, let requests finish within the grace, shut the application down, and return when
        `serve` is about to.

        Not to be awaited by a request of this very server: its end is what is waited for.
        """
        self.begin_drain()
        await self._ended.wait()

    def begin_drain(self) -> None:
        """Begin to drain, without waiting for it; may be called from anywhere in the server's own trio
        run.
        """
        self._draining.set()

    def begin_last_drain(self) -> None:
        """As `begin_drain`, for a worker that is told that the other workers stop as well: then it is its
        affair, too, what waits in the queues of the sockets that they share.
        """
        if self._listening is Listening.WITH_OTHERS:
            self._listening = Listening.ALONE
        self.begin_drain()

    async def wait_draining(self) -> None:
        """Wait until the server drains, for whichever reason: it has stopped accepting, or is about to."""
        await self._draining.wait()


async def serve(
    app: ASGIApp,
    config: Config | None = None,
    *,
    sockets: Sequence[socket.socket] | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
    **options: object,
) -> None:
    """Serve `app` in this Trio run until it is cancelled, or drained through the `Server` that
    `nursery.start` returns.

    `config` or `options` (the fields of `Config`, by keyword) say how. `sockets`, where given, are listening
    already and stay the caller's to close and to announce; else `config.binds` are bound.

    Cancelling the scope around it stops accepting and ends what is under way at once; the application's
    lifespan is shut down, within its deadline, either way.

    Raises ConfigError, LoadError (`app` is no application), BindError, TLSError, LifespanError.
    """
    require_trio("trioasgi.serve")
    config = make_config(config, options)
    app = _checked("trioasgi.serve", app, config)
    if sockets is not None:
        await _Run(app, config, list(sockets), Listening.FOR_CALLER).run(task_status)
        return
    await serve_alone(app, config, task_status=task_status)


OnStuck = Callable[[TrioasgiError], None]
"""What a process does that is the server's own, when the application's lifespan call does not end: it is
given why the server stops, or that this keeps it from ending."""


async def serve_alone(
    app: ASGIApp,
    config: Config,
    *,
    on_stuck: OnStuck | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, on `config.binds`."""
    from trioasgi.tls.development import resolve_certificate

    with resolve_certificate(config) as config:
        log_remarks(config.remarks())
        own = open_listeners(config)
        try:
            await _Run(app, config, own, Listening.ALONE, on_stuck).run(task_status)
        finally:
            close_listeners(own)


async def serve_copies(
    app: ASGIApp,
    config: Config,
    sockets: Sequence[socket.socket],
    *,
    on_stuck: OnStuck | None = None,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, in a worker: `sockets` are its own copies of what other workers listen on as well.

    They are closed when the server drains, so that no client waits in a queue from which nobody accepts.
    """
    await _Run(app, config, list(sockets), Listening.WITH_OTHERS, on_stuck).run(task_status)


async def serve_stream(
    app: ASGIApp,
    stream: trio.abc.Stream,
    config: Config | None = None,
    **options: object,
) -> None:
    """Serve the one connection that `stream` is, with its own lifespan, and return when it has been closed.

    Any `trio.abc.Stream` will do; with `certfile` in the configuration the server's side of TLS is spoken on
    it.
    """
    require_trio("trioasgi.serve_stream")
    from trioasgi.tls.development import resolve_certificate

    config = make_config(config, options)
    app = _checked("trioasgi.serve_stream", app, config)
    with resolve_certificate(config) as config:
        await _Run(app, config, [], Listening.FOR_CALLER).run_stream(stream)


def require_trio(name: str) -> None:
    """Raise RuntimeError, saying what to do, unless this is a Trio run."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"{name} runs on Trio, and this is not a Trio run. Start your program with trio.run(main), or "
            'with anyio.run(main, backend="trio"); from synchronous code call trioasgi.run(app).'
        )


def _checked(name: str, app: object, config: Config) -> ASGIApp:
    """`app`, if it is an application; raises LoadError."""
    if isinstance(app, str):
        raise LoadError(
            f"{name} takes the application itself, not its name: import it, and pass the object "
            f"instead of {app!r}"
        )
    return check_app(app, config=config)


def make_config(config: Config | None, options: dict[str, object]) -> Config:
    """The configuration that `config` or the keywords amount to. Raises ConfigError."""
    if config is None:
        return Config.from_dict(options)
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a trioasgi.Config, not {type(config).__name__}; options are given by keyword"
        )
    return config.replace(**options) if options else config


async def _abort_when_cancelled(connections: Connections, last_moments: trio.CancelScope) -> None:
    """When the server is cancelled, close the connections that a shielded wait keeps from ending: a wait for
    a client that takes nothing, say, ends with its connection.
    """
    try:
        await trio.sleep_forever()
    finally:
        with last_moments:
            await trio.sleep(LAST_MOMENTS)
            connections.abort()


class _Run:
    """One run of the nursery tree."""

    def __init__(
        self,
        app: ASGIApp,
        config: Config,
        sockets: list[socket.socket],
        listening: Listening,
        on_stuck: OnStuck | None = None,
    ) -> None:
        self._config = config
        self._on_stuck = on_stuck
        self._sockets = sockets
        # With one that was inherited another server may go on.
        self._owns_sockets = not any(bind.startswith("fd:") for bind in config.binds)
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
        self._access_log = access_log(config)
        self._hub: Hub | None = None
        self._grace_ends = -math.inf
        self._nurseries: list[trio.Nursery] = []
        """Those that calls of the application are made in."""
        self._fixed_server = {sock: fixed_address(sock) for sock in sockets}

    async def run(self, task_status: trio.TaskStatus[Server]) -> None:
        """Serve until drained or cancelled."""
        try:
            await self._within_lifespan(partial(self._serve, task_status))
        finally:
            await self._end_last_left_behind()
            self._server.begin_drain()
            self._server._ended.set()

    async def run_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one stream."""
        try:
            await self._within_lifespan(partial(self._serve_stream, stream))
        finally:
            await self._end_last_left_behind()
            await trio.aclose_forcefully(stream)

    async def _within_lifespan(self, serve: Callable[[trio.Nursery], Awaitable[None]]) -> None:
        """Start the application, serve, shut it down, however serving ends."""
        failure: TrioasgiError | None = None
        guard_nurseries()
        if self._config.threads:
            trio.to_thread.current_default_thread_limiter().total_tokens = self._config.threads
        try:
            async with trio.open_nursery() as nursery:
                self._nurseries.append(nursery)
                try:
                    await nursery.start(self._background.run)
                    await self._lifespan.startup(nursery)
                    try:
                        if self._websocket is not None:
                            await nursery.start(self._websocket.keepalive.run)
                        try:
                            await serve(nursery)
                        finally:
                            await self._end_left_behind()
                    finally:
                        await self._end_background()
                        await self._lifespan.shutdown()
                except TrioasgiError as exc:
                    # Raised outside of the nursery: it is one error, and should not come in a group.
                    failure = exc
                finally:
                    if not await self._lifespan.wait_over(LAST_MOMENTS):
                        self._tell_stuck(failure)
                nursery.cancel_scope.cancel()
        except BaseException:
            if failure is not None:
                # The server was cancelled, or something worse has happened, and that is what is raised.
                logger.log(logging.ERROR, "%s", failure, exc_info=failure.__cause__)
            raise
        if failure is not None:
            raise failure

    def _tell_stuck(self, failure: TrioasgiError | None) -> None:
        """Say what nobody will be told otherwise: the nursery waits for the call, and nothing can end it."""
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

    async def _serve_stream(self, stream: trio.abc.Stream, _nursery: trio.Nursery) -> None:
        async with self._open_connections() as (connections, _busy, _clock):
            connections.begin(stream, None, None)
        self._grace_ends = trio.current_time() + self._config.timeout_graceful_shutdown
        self._background.drain(self._grace_ends)

    async def _end_left_behind(self) -> None:
        """Let tasks end that requests have left behind, in what is left of the grace: what they use of the
        application's may be gone after its shutdown.
        """
        if not await end_left_behind(self._nurseries, self._grace_ends, report_left_behind):
            self._server.has_cut = True

    async def _end_last_left_behind(self) -> None:
        """As above, of those that the lifespan call and tasks in the background have left."""
        self._grace_ends = trio.current_time()
        with trio.CancelScope(shield=True):  # each wait within has a deadline
            await self._end_left_behind()

    async def _end_background(self) -> None:
        """Let the tasks that the application has started through the server end, in what is left of the
        grace.
        """
        if not self._background.draining.is_set():  # serving has failed, or was cancelled
            self._background.drain(trio.current_time())
        # The nursery of the tasks is cancelled by whatever cancels this; it only has to be waited for.
        limit = self._config.timeout_graceful_shutdown + self._config.timeout_shutdown
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limit):
            if not await self._background.close():
                self._server.has_cut = True
                logger.warning(
                    "tasks of the application that had not ended %g seconds after the server was told to "
                    "stop were cancelled (--timeout-graceful-shutdown)",
                    self._config.timeout_graceful_shutdown,
                )

    async def _serve(self, task_status: trio.TaskStatus[Server], nursery: trio.Nursery) -> None:
        if self._access_log is not None:
            nursery.start_soon(self._access_log.run)
        if supported():
            self._hub = Hub()
            # Not `nursery.start`: cancelled meanwhile, that would wait for a task which is shielded.
            nursery.start_soon(self._hub.run)
        try:
            await self._serve_sockets(task_status)
        finally:
            if self._hub is not None:
                self._hub.stop()

    async def _serve_sockets(self, task_status: trio.TaskStatus[Server]) -> None:
        async with self._open_connections() as (connections, busy, clock):
            async with trio.open_nursery() as listening:
                for sock in self._sockets:
                    listening.start_soon(accept_connections, sock, partial(self._take, sock, connections))
                listening.start_soon(self._watch_lifespan)
                if self._announces:
                    self._announce()
                task_status.started(self._server)
                await self._server.wait_draining()
                listening.cancel_scope.cancel()
            self._stop_listening(connections)
            connections.drain()
            self._grace_ends = deadline = trio.current_time() + self._config.timeout_graceful_shutdown
            self._background.drain(deadline)
            clock.start_soon(self._cut_at, deadline, connections, busy.cancel_scope)

    @asynccontextmanager
    async def _open_connections(self) -> AsyncIterator[tuple[Connections, trio.Nursery, trio.Nursery]]:
        """The connections, the nursery that they run in, and one that lasts as long. The block ends with the
        last of them.
        """
        last_moments = trio.CancelScope(shield=True)
        async with trio.open_nursery() as clock:
            try:
                async with trio.open_nursery() as busy:
                    self._nurseries.append(busy)
                    connections = self._connections(busy)
                    clock.start_soon(_abort_when_cancelled, connections, last_moments)
                    yield connections, busy, clock
            finally:
                last_moments.cancel()
                clock.cancel_scope.cancel()

    def _stop_listening(self, connections: Connections) -> None:
        """Refuse clients from here on, rather than let them wait: a balancer in front goes elsewhere."""
        match self._server._listening:
            case Listening.FOR_CALLER:
                return
            case Listening.WITH_OTHERS:
                pass
            case Listening.ALONE:
                remove_paths(self._sockets)
                for sock in self._sockets:
                    if self._owns_sockets:
                        refuse_newcomers(sock)
                    self._take_waiting(sock, connections)
                    sock.close()
        close_listeners(self._sockets)

    def _take_waiting(self, sock: socket.socket, connections: Connections) -> None:
        """Serve what waits in the queue of a socket that is about to be closed: nobody else will."""
        try:
            accept_waiting(sock, partial(self._take, sock, connections), self._config.backlog)
        except OSError as exc:
            logger.warning("clients that waited for the server when it stopped are not served: %s", exc)

    async def _cut_at(self, deadline: float, connections: Connections, busy: trio.CancelScope) -> None:
        """End the grace: what is under way by then is cut."""
        await trio.sleep_until(deadline)
        if connections.are_busy:
            self._server.has_cut = True
            logger.warning(
                "requests that had not ended %g seconds after the server was told to stop were cut "
                "(--timeout-graceful-shutdown)",
                self._config.timeout_graceful_shutdown,
            )
        busy.cancel()
        await trio.sleep(LAST_MOMENTS)
        connections.abort()

    async def _watch_lifespan(self) -> None:
        await self._lifespan.crashed.wait()
        logger.error("%s; the server stops", self._lifespan.error)
        self._server.begin_drain()

    def _connections(self, busy: trio.Nursery) -> Connections:
        """The connections that are served in `busy`."""
        # Requests see what the lifespan has set, or else what the program has that embeds the server.
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

    def _take(
        self,
        listener: socket.socket,
        connections: Connections,
        connection: socket.socket,
        address: object,
    ) -> None:
        """Give a connection that was accepted a task of its own."""
        stream: trio.abc.Stream
        try:
            server = self._fixed_server[listener] or as_peer(connection.getsockname(), connection.family)
            if self._hub is not None:
                stream = HubStream(connection, self._hub)
            else:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        except OSError as exc:
            # It was reset before we looked at it, or the system has no room to watch another.
            logger.warning("a connection could not be served: %s", exc)
            connection.close()
            return
        connections.begin(stream, as_client(address, connection.family), server)

    def _announce(self) -> None:
        from trioasgi.codecs import websocket_codec_name
        from trioasgi.observe.startup import announce

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
        )
