"""`HostedApplication`: an application that has started, and serves the connections that its program hands to
it, each in the task that does so.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.config.remarks import remarks_on_given
from trioasgi.net.peers import stream_peers
from trioasgi.nurseries import LAST_MOMENTS
from trioasgi.observe.startup import log_remarks
from trioasgi.server.assembly import grace, resolve_certificate
from trioasgi.server.connections import Connections
from trioasgi.server.drain import report_shielded
from trioasgi.server.flat_errors import FlatErrors
from trioasgi.server.handle import Server
from trioasgi.server.hosting import Counting, Hosting
from trioasgi.server.progress import Listening, Progress, ServerPhase
from trioasgi.server.room import Room
from trioasgi.tasks import report_started, start_soon

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextvars import Context

    from trioasgi.config import Config
    from trioasgi.net.peers import Peer
    from trioasgi.server.given import Given, Prepared
    from trioasgi.server.handle import ListensOn
    from trioasgi.server.preparing import Preparation
    from trioasgi.server.room import Waiting
    from trioasgi.server.settings import ConnectionSettings
    from trioasgi.types import ASGIApp

logger = logging.getLogger("trioasgi")

_SCHEMES = ("http", "https")


class HostedApplication(Server):
    """An application that has started: what `async with trioasgi.application(app)` gives.

    It is a `Server` that accepts no connections itself: the program calls `serve_stream`. `drain()`, `phase`
    and the rest are as there.
    """

    _SOURCE = "`async with trioasgi.application(app)` gives one"

    def __init__(self, listens_on: Sequence[ListensOn], progress: Progress, streams: GivenStreams) -> None:
        super().__init__(listens_on, progress)
        self._streams = streams

    async def serve_stream(
        self,
        stream: trio.abc.Stream,
        *,
        client: Peer | None = None,
        server: Peer | None = None,
        scheme: str | None = None,
    ) -> None:
        """Serve one connection, and return at its end. Any task of the same Trio run may call this, and
        several at once: `await trio.serve_tcp(hosted.serve_stream, 8000)`.

        If it is cancelled, this connection alone ends. Whatever the application raises ends at most this
        connection, and does not leave this method. Once the application drains, a connection gets one more
        request.

        Args:
          stream: Any `trio.abc.Stream`. It is closed at the end. With a `certfile` in the configuration the
              server speaks TLS on it. The handshake of a `trio.SSLStream` is done, if the caller has not.
          client, server: `client` and `server` of the scope, each as `(host, port)`. Without them those of a
              `trio.SocketStream`, also below a `trio.SSLStream`. Other streams have none.
          scheme: `http` or `https`. Without it what the stream is: https over TLS.

        Raises:
          trio.ClosedResourceError: The application has ended.
          RuntimeError: The application has not started yet, or this is another Trio run.
          ValueError: `scheme` is something else.
          TypeError: `stream` is no stream, or `client` or `server` no address.
        """
        check_stream(stream)
        if not self._progress.is_of_this_run:
            raise RuntimeError("serve_stream() was called outside of the application's Trio run")
        try:
            given = self._streams.take(stream, client, server, scheme)
        except trio.ClosedResourceError:
            await close_stream(stream)
            await trio.lowlevel.checkpoint_if_cancelled()  # what has ended the application may end the caller
            raise
        except BaseException:
            await close_stream(stream)
            raise
        await given.serve()


def _check_peer(name: str, peer: object) -> None:
    match peer:
        case None | (str(), int() | None):
            return
    raise TypeError(f"{name} must be a tuple (host, port), not {peer!r}")


def check_stream(stream: object) -> None:
    """Raise TypeError if it has not the methods of a `trio.abc.Stream`."""
    if not all(hasattr(stream, name) for name in ("receive_some", "send_all", "aclose")):
        raise TypeError(f"stream must be a trio.abc.Stream, not {type(stream).__name__}")


async def close_stream(stream: trio.abc.Stream) -> None:
    """Close a stream at once. If it fails to, that is logged, as it is no affair of other connections.

    It raises no Cancelled, which would take the place of a KeyboardInterrupt that is on its way.
    """
    try:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    except Exception as exc:  # noqa: BLE001 - the stream is the program's own: it may raise anything
        logger.log(logging.WARNING, "a connection could not be closed: %r", exc)


def take(hosted: HostedApplication, stream: trio.abc.Stream) -> GivenStream:
    """The connection, registered: until `serve()` of it has ended, the application waits for it.

    Raises trio.ClosedResourceError if the application has ended.
    """
    return hosted._streams.take(stream)


def streams_of(hosted: HostedApplication) -> GivenStreams:
    """Its streams, for what accepts more of them."""
    return hosted._streams


class GivenStreams:
    """The streams that a program has given to its application."""

    def __init__(self, progress: Progress, most: int) -> None:
        self.progress = progress
        self.room = Room(most, self) if most else None
        """Is there room for another stream? None: always. Whoever accepts streams asks it."""
        self._is_accepting = False
        self.is_draining = False
        self._shared: _Shared | None = None
        self._streams: set[GivenStream] = set()
        self._empty: trio.Event | None = None

    def begin(self, settings: ConnectionSettings, context: Context) -> None:
        """Note that the application has started."""
        self._shared = _Shared(settings, context)

    def take(
        self,
        stream: trio.abc.Stream,
        client: Peer | None = None,
        server: Peer | None = None,
        scheme: str | None = None,
    ) -> GivenStream:
        """Take a stream, which is to be served. What is raised is as of `HostedApplication.serve_stream`."""
        _check_peer("client", client)
        _check_peer("server", server)
        if scheme is not None and scheme not in _SCHEMES:
            raise ValueError(f"scheme must be 'http' or 'https', not {scheme!r}")
        if self._shared is None:
            if self.progress.phase is ServerPhase.STARTING:
                raise RuntimeError("the application has not started yet: it serves no connections")
            raise trio.ClosedResourceError("the application has ended: it serves no more connections")
        peers = stream_peers(stream)
        given = GivenStream(self, self._shared, stream, (client or peers[0], server or peers[1], scheme))
        self._streams.add(given)
        return given

    def __len__(self) -> int:
        return len(self._streams)

    def open_connections(self) -> Iterable[Waiting]:
        """The connections that are past the steps before their protocol."""
        return chain.from_iterable(stream.open_connections() for stream in self._streams)

    @property
    def are_busy(self) -> bool:
        """Is a call of the application under way?"""
        return any(stream.is_busy for stream in self._streams)

    def discard(self, stream: GivenStream) -> None:
        """Note that `stream` has ended."""
        self._streams.discard(stream)
        if self.room is not None:
            self.room.note_end()
        self._note_empty()

    def drain(self) -> None:
        """Let each connection finish its request, and then close it."""
        self.is_draining = True
        for stream in self._streams:
            stream.drain()

    def preparations(self) -> Iterable[Preparation]:
        """The connections that are before their protocol."""
        return chain.from_iterable(stream.preparations() for stream in self._streams)

    def cancel(self) -> None:
        """Cancel all connections, and take no more."""
        self._shared = None
        for stream in tuple(self._streams):
            stream.cancel()

    def abort(self) -> None:
        """Close all connections at once."""
        for stream in self._streams:
            stream.abort()

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Around what takes streams, also when the application drains: it takes what has come before."""
        self._is_accepting = True
        try:
            yield
        finally:
            self._is_accepting = False
            self._note_empty()

    def _note_empty(self) -> None:
        if not self._streams and self._empty is not None:
            self._empty.set()

    async def wait_drained(self) -> None:
        """Wait until there is no stream, and none will come."""
        while self._streams or self._is_accepting:
            self._empty = trio.Event()
            await self._empty.wait()

    async def wait_ended(self) -> None:
        """Wait until there is no stream."""
        while self._streams:
            self._empty = trio.Event()
            await self._empty.wait()

    async def end(self) -> None:
        """Cancel what is left, and wait for it, even if the surroundings are cancelled.

        A stream closes its connection LAST_MOMENTS after it was cancelled.
        """
        self.cancel()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(2 * LAST_MOMENTS):
                await self.wait_ended()
            report_shielded(self)
            await self.wait_ended()
        self.room = None  # it refers to this


class _Shared(msgspec.Struct, frozen=True):
    """What all connections of an application have in common."""

    settings: ConnectionSettings
    context: Context


class GivenStream:
    """One stream that its program serves.

    Its connection has a nursery of its own, in the program's task: whatever cancels that task ends the
    connection. Nobody else's code runs in that task, so its context variables stay as they are.
    """

    def __init__(
        self,
        streams: GivenStreams,
        shared: _Shared,
        stream: trio.abc.Stream,
        ends: tuple[Peer | None, Peer | None, str | None],
    ) -> None:
        self._streams = streams
        self._shared = shared
        self._stream = stream
        self._ends = ends
        self._scope = trio.CancelScope()
        self._closed = trio.Event()
        self._connections: Connections | None = None
        self._is_served = False

    @enable_ki_protection  # Ctrl-C before `discard` would leave it, and the application waits for it
    async def serve(self) -> None:
        """Serve the connection to its end."""
        try:
            self._is_served = True
            admission = self._shared.settings.admission
            if admission is not None and not admission.admits(self._ends[0]):
                return
            await self._serve_admitted()
        finally:
            self.discard()
            await close_stream(self._stream)

    @enable_ki_protection  # the nursery that it opens must end
    async def _serve_admitted(self) -> None:
        with FlatErrors(), self._scope:
            async with trio.open_nursery() as nursery:
                await self._serve_in(nursery)

    async def _serve_in(self, nursery: trio.Nursery) -> None:
        shared = self._shared
        self._streams.progress.nurseries.add(nursery)
        connections = Connections(shared.settings, nursery, shared.context, on_end=self._note_end)
        self._connections = connections
        if self._streams.is_draining:
            connections.drain()
        connections.begin(self._stream, *self._ends)
        try:
            await self._closed.wait()
        finally:
            # What the application shields may wait for a client that does nothing.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LAST_MOMENTS):
                await self._closed.wait()
            connections.abort()

    def _note_end(self) -> None:
        if not self._connections:
            self._closed.set()

    def open_connections(self) -> Iterable[Waiting]:
        """Its connection, once it is past the steps before its protocol."""
        return () if self._connections is None else self._connections.open_connections()

    @enable_ki_protection  # the application waits for this
    def discard(self) -> None:
        """Note that the connection has ended, or will not be served."""
        if self._connections is not None:
            self._connections.end()
            self._connections = None
        self._streams.discard(self)

    @property
    def is_busy(self) -> bool:
        """Is a call of the application under way?"""
        return self._connections is not None and self._connections.are_busy

    def drain(self) -> None:
        """As of `GivenStreams`."""
        if self._connections is not None:
            self._connections.drain()

    def preparations(self) -> Iterable[Preparation]:
        """As of `GivenStreams`."""
        return () if self._connections is None else self._connections.preparations()

    def cancel(self) -> None:
        """As of `GivenStreams`."""
        self._scope.cancel()
        if not self._is_served:  # the program may have forgotten it
            self.discard()

    def abort(self) -> None:
        """As of `GivenStreams`."""
        if self._connections is not None:
            self._connections.abort()


class HostedTree:
    """One run of a `HostedApplication`. Others accept from the sockets that it `listens_on`."""

    def __init__(
        self, app: ASGIApp, config: Config, given: Given, listens_on: Sequence[ListensOn] = ()
    ) -> None:
        self._progress = Progress(Listening.FOR_CALLER, grace(config))
        self._streams = GivenStreams(self._progress, config.limit_connections)
        self._server = HostedApplication._create(listens_on, self._progress, self._streams)
        self._hosting = Hosting(app, config, given, self._server, self._progress)

    async def serve(self, task_status: trio.TaskStatus[HostedApplication]) -> None:
        """Host the application until drained or cancelled."""
        await self._hosting.run(partial(self._serve, task_status))

    async def _serve(self, task_status: trio.TaskStatus[HostedApplication], nursery: trio.Nursery) -> None:
        hosting, progress, streams = self._hosting, self._progress, self._streams
        if hosting.access_log is not None:
            start_soon(nursery, hosting.access_log.write_batches)
        start_soon(nursery, hosting.drain_if_lifespan_crashes)
        application = hosting.application()
        streams.begin(hosting.connection_settings(application), hosting.context())
        progress.counts = Counting(application, streams)
        progress.begin()
        try:
            report_started(task_status, self._server)
            await progress.draining.wait()
            streams.drain()
            hosting.drain.begin()
            async with trio.open_nursery() as clock:
                start_soon(clock, hosting.drain.end_preparations, streams)
                start_soon(clock, hosting.drain.cut_at_deadline, streams, streams.cancel)
                await streams.wait_drained()
                clock.cancel_scope.cancel()
        finally:
            await streams.end()


async def host(
    prepared: Prepared,
    listens_on: Sequence[ListensOn] = (),
    *,
    accepts: bool = False,
    task_status: trio.TaskStatus[HostedApplication],
) -> None:
    """Host an application until drained or cancelled. Others accept from the sockets that it `listens_on`.
    `accepts`: do they belong to this package, and ask whether there is room?
    """
    with resolve_certificate(prepared.config) as config:
        log_remarks((*config.remarks(), *remarks_on_given(config, accepts=accepts)))
        await HostedTree(prepared.app, config, prepared.given, listens_on).serve(task_status)
