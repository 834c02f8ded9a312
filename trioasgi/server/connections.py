"""The connections of a worker, each in a task of its own.

A failure ends only its own connection. It is logged with the peer.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import trio
from trio.lowlevel import current_task, enable_ki_protection

from trioasgi.http.served import Served
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.server.entry import ConnectionPreparer, as_channel
from trioasgi.server.naming import ConnectionName
from trioasgi.server.preparing import Preparation
from trioasgi.server.protocols import Connection, Protocols, ServerServices
from trioasgi.server.room import Room
from trioasgi.server.task_pool import TaskPool
from trioasgi.tasks import start_named, start_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextvars import Context

    from trioasgi.net.channel import Channel
    from trioasgi.net.connection_info import ConnectionInfo
    from trioasgi.net.peers import Peer
    from trioasgi.server.settings import ConnectionSettings

logger = logging.getLogger("trioasgi")

_OVER: Final = Served.OVER


class _Way(NamedTuple):
    """How a connection is served: its protocols, and the steps before."""

    protocols: Protocols
    preparer: ConnectionPreparer


class _Unprepared(NamedTuple):
    """A connection before its protocol."""

    way: _Way
    stream: trio.abc.Stream
    info: ConnectionInfo
    preparation: Preparation


_Serving: TypeAlias = "tuple[Connection, ConnectionName]"
"""A connection, and the name of the task that serves it."""

_Work: TypeAlias = "_Unprepared | _Serving"


class Connections:
    """The connections of a worker. `begin` serves one, and `drain` drains all.

    `nursery` runs each connection in a task. If an application goes on after its response is complete,
    another task takes its connection over. `context` has the context variables with which each call begins.
    No other code may enter it. At most `most` connections should be open at once (0: no limit); whoever
    accepts them asks `room`. `on_end` is called when a connection has ended. At most `most_waiting` tasks are
    kept for further connections; `drain` ends them.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        nursery: trio.Nursery,
        context: Context,
        most: int = 0,
        on_end: Callable[[], None] | None = None,
        most_waiting: int = 0,
    ) -> None:
        self.admission = settings.admission
        """Who may connect. Asked before `begin`."""
        self._way = _Way(settings.protocols, ConnectionPreparer(settings))
        self._redirecting_way = self._way
        self._nursery = nursery
        self._context = context
        self._pool: TaskPool[_Work] = TaskPool(context, most_waiting)
        self._services = ServerServices(context, self._start_task, self._take_over)
        self._live: dict[Connection, ConnectionName | None] = {}
        self._preparing: set[Preparation] = set()
        self._draining = False
        self.room = Room(most, self) if most else None
        """Is there room for another connection? None: always."""
        self._on_end = on_end if self.room is None else self.room.note_end

    def redirect(self, settings: ConnectionSettings) -> None:
        """Note the settings of connections that only redirect to https."""
        self._redirecting_way = _Way(settings.protocols, ConnectionPreparer(settings))

    def __len__(self) -> int:
        return len(self._live) + len(self._preparing)

    @property
    def are_busy(self) -> bool:
        """Is a request under way on any connection, or does a call still run whose connection was
        taken over?
        """
        if any(connection.is_busy for connection in self._live):
            return True
        return len(self._nursery.child_tasks) > len(self) + len(self._pool)

    def open_connections(self) -> Iterable[Connection]:
        """Those that are past the steps before their protocol."""
        return self._live

    def drain(self) -> None:
        """Close each connection after its request. Idle ones have a moment for a request that is
        on its way.
        """
        self._draining = True
        self._pool.end()
        for connection in self._live:
            connection.drain()

    def preparations(self) -> Iterable[Preparation]:
        """Those that are before their protocol."""
        return self._preparing

    def abort(self) -> None:
        """Close all connections at once. Waits for them end with an error."""
        for connection in self._live:
            with _Isolation(connection.peer):
                connection.abort()

    def end(self) -> None:
        """Note that none will begin any more. Otherwise only the garbage collector would free this."""
        del self._services  # its functions refer to this
        self.room = self._on_end = None  # so do these

    def begin(
        self,
        stream: trio.abc.Stream,
        client: Peer | None,
        server: Peer | None,
        scheme: str | None = None,
        *,
        redirects: bool = False,
    ) -> None:
        """Serve one connection, in a task of its own. `scheme` None: what the settings and the stream say.
        `redirects`: does it only redirect to https?
        """
        way = self._redirecting_way if redirects else self._way
        info = way.preparer.info(client, server, scheme)
        # The handshake of an SSLStream may not be done.
        # (An `isinstance` with the stream's own class is fast. With another one of Trio's it asks an ABC.)
        is_plain = isinstance(stream, HubStream) or not isinstance(stream, trio.SSLStream)
        if is_plain and way.preparer.has_no_steps:
            self._take_over(self._connect(way, as_channel(stream), info))
        else:
            begun = Preparation(partial(_close_at_once, stream, info.peer))
            self._begin_work(_Unprepared(way, stream, info, begun), f"handshake with {info.peer}")
            self._preparing.add(begun)

    def begin_plain(self, stream: trio.abc.Stream, client: Peer | None, server: Peer | None) -> None:
        """As `begin`, for a stream that has neither TLS nor a PROXY header."""
        way = self._way
        self._take_over(self._connect(way, as_channel(stream), way.preparer.info(client, server)))

    def begins_with_steps(self, *, redirects: bool) -> bool:
        """Does a connection begin with a PROXY header, or a TLS handshake? `redirects` is as for `begin`."""
        return not (self._redirecting_way if redirects else self._way).preparer.has_no_steps

    def _note_end(self) -> None:
        if self._on_end is not None:
            self._on_end()

    async def _prepare(self, work: _Unprepared) -> Connection | None:
        """Do what comes before the protocol. If that fails, close the stream and return None."""
        way, stream, info, preparation = work
        connection = None
        preparation.task = current_task()
        try:
            with _Isolation(info.peer):
                try:
                    prepared = await way.preparer.prepare(stream, info)
                    if prepared is not None:
                        connection = self._connect(way, prepared.channel, prepared.info, prepared.alpn)
                finally:
                    if connection is None:
                        await _close_at_once(stream, info.peer)
        finally:
            preparation.task = None
            self._preparing.discard(preparation)
            self._note_end()
        return connection

    def _connect(
        self, way: _Way, channel: Channel, info: ConnectionInfo, alpn: str | None = None
    ) -> Connection:
        connection = way.protocols.choose(alpn)(channel, info, self._services)
        if self._draining:
            connection.drain()
        self._live[connection] = None
        return connection

    def _take_over(self, connection: Connection) -> None:
        # Any task may call this, also that of another request.
        earlier = self._live.get(connection)
        if earlier is not None:
            earlier.keep()
        self._live[connection] = name = ConnectionName(connection)
        self._begin_work((connection, name), name)

    def _begin_work(self, work: _Work, name: str) -> None:
        if not self._pool.give(work, name):
            self._context.run(start_named, self._nursery, name, self._serve, work)

    def _start_task(self, function: Callable[[], Awaitable[None]], peer: str) -> None:
        self._context.run(start_soon, self._nursery, _run_isolated, function, peer)

    async def _serve(self, work: _Work) -> None:
        """Serve a connection and close it, unless another task, of another name, takes it over. Then serve
        the next one that this task is given, and so on.
        """
        connection, name = None, None
        begun = self._ready(work)
        del work  # the connection may last long
        try:
            connection, name = await begun
            del begun
            while connection is not None:
                scope = trio.CancelScope()
                try:
                    with scope:
                        while connection is not None and await connection.run(scope) is _OVER:
                            connection.leave_scope()
                            await self._close(connection)
                            connection = name = None  # what waits must not hold them
                            connection, name = await self._ready(None)
                except RuntimeError:
                    # A call left a scope open: Trio raises, as ours ends before that one.
                    if connection is None or self._live.get(connection) is name:
                        raise
                if connection is None or self._live.get(connection) is not name:
                    return
                if scope.cancelled_caught:
                    connection.end_cancelled()
        except BaseException as exc:
            if connection is not None:
                await self._cut(connection, name)
            if not isinstance(exc, Exception):
                raise
            _log_failure(str(current_task().name) if connection is None else connection.peer, exc)

    async def _ready(self, work: _Work | None) -> _Serving | tuple[None, None]:
        """The connection of `work`, or of what this task is given next, once its protocol can begin."""
        while work is not None or (work := await self._pool.wait()) is not None:
            if not isinstance(work, _Unprepared):
                return work
            connection = await self._prepare(work)
            work = None
            if connection is not None:
                # The same task goes on: another one would take a round of the scheduler to begin.
                self._live[connection] = name = ConnectionName(connection)
                current_task().name = name
                return connection, name
        return None, None

    async def _close(self, connection: Connection) -> None:
        """Close a connection that is over."""
        try:
            if not connection.channel.finish():
                await connection.channel.aclose()
        except BaseException:
            with _Isolation(connection.peer):
                connection.cut()
            raise
        finally:
            self._forget(connection)

    async def _cut(self, connection: Connection, name: ConnectionName | None) -> None:
        """Close a connection whose task has failed or is cancelled, unless one of another `name` has it."""
        if self._live.get(connection) is not name:
            return
        with _Isolation(connection.peer):
            try:
                connection.cut()
            finally:
                self._forget(connection)
        if isinstance(connection.channel, StreamChannel):  # `abort` closes only those on the hub
            await _close_isolated(connection.channel.aclose, connection.peer)

    def _forget(self, connection: Connection) -> None:
        del self._live[connection]
        connection.channel.abort()
        self._note_end()


class _Isolation:
    """Log an error with its peer, and keep it from the other connections."""

    __slots__ = ("_peer",)

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        if not isinstance(exc, Exception):
            return False
        _log_failure(self._peer, exc)
        return True


def _log_failure(peer: str, exc: Exception) -> None:
    logger.error("%s: the connection failed; it is closed, the others go on", peer, exc_info=exc)


async def _run_isolated(function: Callable[[], Awaitable[None]], peer: str) -> None:
    # A stream of the caller's may raise anything.
    with _Isolation(peer):
        await function()


async def _close_at_once(stream: trio.abc.Stream, peer: str) -> None:
    if isinstance(stream, HubStream):
        with _Isolation(peer):
            stream.close()
    else:
        await _close_isolated(stream.aclose, peer)


@enable_ki_protection
async def _close_isolated(aclose: Callable[[], Awaitable[None]], peer: str) -> None:
    """Close without waiting, as `trio.aclose_forcefully`. It raises nothing, not even Cancelled: that would
    take the place of a KeyboardInterrupt that is on its way.
    """
    with _Isolation(peer), trio.CancelScope(shield=True), trio.CancelScope() as scope:
        scope.cancel()
        await aclose()
