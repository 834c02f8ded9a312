"""`serve_listeners`: accepts from the listeners of a program."""

from __future__ import annotations

import logging
import math
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.config.checks import refuse_addresses
from trioasgi.errors import NO_ROOM, ConfigError, TrioasgiError
from trioasgi.net.accept import LONGEST_QUEUE, Shortage, broken_listener
from trioasgi.net.kernel import is_readable
from trioasgi.net.listeners import socket_url
from trioasgi.server.block import for_block
from trioasgi.server.flat_errors import FlatErrors, flatten
from trioasgi.server.handle import note_failure
from trioasgi.server.hosted_application import close_stream, host, streams_of, take
from trioasgi.server.progress import Listening, ServerPhase
from trioasgi.server.serve import serve_on
from trioasgi.tasks import StartsSoon, report_started, start_soon

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from trioasgi.config import Config
    from trioasgi.server.given import Prepared
    from trioasgi.server.handle import ListensOn, Server
    from trioasgi.server.hosted_application import HostedApplication
    from trioasgi.server.room import Room


logger = logging.getLogger("trioasgi")


class Listeners:
    """The listeners of the program, which are closed at the end of the block."""

    def __init__(self, listeners: Iterable[trio.abc.Listener[Any]] | trio.abc.Listener[Any]) -> None:
        self._given = [listeners] if isinstance(listeners, trio.abc.Listener) else _iterable(listeners)
        self._listeners: list[trio.abc.Listener[Any]] = []
        self._failure: Exception | None = None

    async def __aenter__(self) -> Listeners:
        try:
            for listener in self._given:  # a generator may fail after it has opened some
                self._listeners.append(listener)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> None:
        await self.close_first()
        failure, self._failure = self._failure, None  # its traceback refers to this
        if failure is not None:
            with FlatErrors():  # neither takes the place of the other
                raise failure if exc is None else BaseExceptionGroup("serve_listeners", [exc, failure])

    @enable_ki_protection
    async def close(self) -> None:
        """Close all of them, once, also if this is cancelled, or one of them raises. What they raise is
        flat.
        """
        listeners, self._listeners = self._listeners, []
        with FlatErrors(), trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    if isinstance(listener, trio.abc.AsyncResource):
                        start_soon(nursery, trio.aclose_forcefully, listener)

    async def close_first(self) -> None:
        """As `close`. What it raises, the end of the block raises: requests that are under way come first."""
        try:
            await self.close()
        except Exception as exc:  # noqa: BLE001 - raised later
            self._failure = exc

    def check(self, config: Config, handlers: StartsSoon | None) -> None:
        """Raise ConfigError if there is nothing to accept from, an option goes against it, or `handlers` runs
        no tasks.
        """
        if handlers is not None and not hasattr(handlers, "start_soon"):
            raise ConfigError(
                "handler_nursery must be a trio.Nursery, or have its start_soon, and it is of type "
                f"{type(handlers).__name__}"
            )
        if not self._listeners:
            raise ConfigError("listeners is empty: pass one, as trio.open_tcp_listeners() makes them")
        for index, listener in enumerate(self._listeners):
            if not isinstance(listener, trio.abc.Listener):
                raise ConfigError(
                    f"listeners[{index}] is of type {type(listener).__name__}: pass a trio.abc.Listener, or "
                    "a socket as the argument sockets of serve"
                )
            if _is_closed(listener):
                raise ConfigError(f"listeners[{index}] is closed")
            if isinstance(listener, trio.SSLListener) and config.has_tls:
                raise ConfigError(
                    f"listeners[{index}] does TLS itself, and so does certfile or "
                    "ssl_context_factory; leave out one of them"
                )
        refuse_addresses(config.to_dict(), config.origins, "listeners")

    @property
    def are_sockets(self) -> bool:
        """Are all of them plain sockets? Then the server can accept from the sockets themselves."""
        return all(type(listener) is trio.SocketListener for listener in self._listeners)

    @enable_ki_protection  # the server that it begins must end
    async def serve_sockets(self, prepared: Prepared, task_status: trio.TaskStatus[Server]) -> None:
        """Serve on the sockets of the listeners."""
        sockets = cast("list[trio.SocketListener]", self._listeners)
        async with for_block(partial(serve_on, sockets, prepared, Listening.TAKEN_OVER)) as server:
            report_started(task_status, server)
            await server.wait_draining()
            await self.close_first()  # the server's own duplicates are closed by itself

    @enable_ki_protection
    async def serve_streams(
        self, prepared: Prepared, handlers: StartsSoon | None, task_status: trio.TaskStatus[Server]
    ) -> None:
        """Serve what the listeners accept. The connections run in `handlers`, if it is not None."""
        sources = [_Source(listener, prepared.config) for listener in self._listeners]
        on_sockets = [each.on_socket for each in sources if each.on_socket is not None]
        serve = partial(host, prepared, on_sockets, accepts=True)
        async with for_block(serve, outlives_cancellation=handlers is not None) as hosted:
            with FlatErrors():
                # The nursery is in no context manager made of a generator: since Python 3.12 its frame would
                # keep the errors of a nursery that is cancelled.
                if handlers is not None:
                    await self._accept(sources, hosted, handlers, task_status, outlives_cancellation=True)
                    return
                async with trio.open_nursery() as nursery:
                    await self._accept(sources, hosted, nursery, task_status)

    async def _accept(
        self,
        sources: Sequence[_Source],
        hosted: HostedApplication,
        handlers: StartsSoon,
        task_status: trio.TaskStatus[Server],
        *,
        outlives_cancellation: bool = False,
    ) -> None:
        """Accept from all until the server drains. Then the listeners are closed.

        `outlives_cancellation`: do connections go on if this is cancelled? Then what waits in the queues of
        sockets is accepted also in that case.
        """
        try:
            with streams_of(hosted).accepting():
                try:
                    async with trio.open_nursery() as accepting:
                        for source in sources:
                            start_soon(accepting, source.accept, hosted, handlers)
                        report_started(task_status, hosted)
                        await hosted.wait_draining()
                        accepting.cancel_scope.cancel()
                except BaseException as exc:
                    if outlives_cancellation and isinstance(flatten(exc), trio.Cancelled):
                        with trio.CancelScope(shield=True):  # what waits is accepted without waiting
                            for source in sources:
                                if source.on_socket is not None:
                                    await source.accept_waiting(hosted, handlers)
                    raise
                for source in sources:
                    await source.accept_waiting(hosted, handlers)
        finally:
            await self.close_first()


def _socket_of(listener: trio.abc.Listener[Any]) -> socket.socket | None:
    """Its socket, also below TLS."""
    while isinstance(listener, trio.SSLListener):
        listener = listener.transport_listener
    if isinstance(listener, trio.SocketListener):
        return cast("socket.socket", listener.socket)
    return None


def _is_closed(listener: trio.abc.Listener[Any]) -> bool:
    sock = _socket_of(listener)
    return sock is not None and sock.fileno() == -1


def _iterable(listeners: object) -> Iterable[Any]:
    """`listeners`, if they can be iterated over. Raises ConfigError."""
    if isinstance(listeners, Coroutine):
        listeners.close()  # otherwise Python warns of it, too
        raise ConfigError("listeners is a coroutine: put 'await' before the call that opens them")
    if not isinstance(listeners, Iterable):
        raise ConfigError(
            f"listeners is of type {type(listeners).__name__}: pass a trio.abc.Listener, or several"
        )
    return listeners


_AT_ONCE: Final = 0.001
_NOT_SERVED: Final = "clients that waited for the server when it stopped are not served: %s"


class _Source:
    """One listener, while connections are accepted from it.

    `on_socket` has its socket, and whether its connections have TLS; it is None if there is no socket.
    """

    def __init__(self, listener: trio.abc.Listener[Any], config: Config) -> None:
        self._listener = listener
        self.on_socket: ListensOn | None = None
        self._url: str | None = None
        self._sock = sock = _socket_of(listener)
        if sock is not None:
            has_tls = config.has_tls or isinstance(listener, trio.SSLListener)
            self.on_socket = sock, has_tls
            self._url = socket_url(sock, has_tls)  # nothing tells it later, if the socket was closed

    async def accept(self, hosted: HostedApplication, nursery: StartsSoon) -> None:
        """Accept until cancelled. Raises what the listener's `accept` raises; TrioasgiError if its socket is
        broken, or another task accepts from it.
        """
        try:
            await self._accept_all(hosted, nursery)
        except Exception as exc:
            note_failure(hosted, exc)
            raise

    async def _accept_all(self, hosted: HostedApplication, nursery: StartsSoon) -> None:
        shortage, room = Shortage(), streams_of(hosted).room
        while True:
            try:
                stream = await self._accept_one(room)
            except OSError as exc:
                await shortage.wait(exc)
                continue
            if room is not None:
                try:
                    await room.wait()  # another listener may have been faster
                except trio.Cancelled:
                    await self._begin(stream, hosted, nursery)  # it has come before the server drains
                    raise
            if not await self._begin(stream, hosted, nursery):
                return

    async def accept_waiting(self, hosted: HostedApplication, nursery: StartsSoon) -> None:
        """Accept the connections that wait in the queue, which is about to be closed: that would reset them.

        Others may come meanwhile, so there is a bound.
        """
        for _ in range(LONGEST_QUEUE):
            fd = -1 if self._sock is None else self._sock.fileno()
            if fd != -1 and not is_readable(fd):
                return
            has_begun = False
            try:
                # What waits is accepted before Trio looks at the clock again. (0 would cancel at once.)
                with trio.move_on_after(_AT_ONCE):
                    stream = await self._listener.accept()
                    has_begun = await self._begin(stream, hosted, nursery)
            except TrioasgiError as exc:
                logger.log(logging.WARNING, _NOT_SERVED, exc)
            except Exception as exc:  # noqa: BLE001 - a listener of the program's own may raise anything
                logger.log(logging.WARNING, _NOT_SERVED, repr(exc))
            if not has_begun:
                return

    async def _begin(self, stream: trio.abc.Stream, hosted: HostedApplication, nursery: StartsSoon) -> bool:
        """Serve the connection in a task of its own. False if the server has drained in this moment."""
        try:
            given = take(hosted, stream)
        except trio.ClosedResourceError:
            await close_stream(stream)
            return False
        try:
            start_soon(nursery, given.serve)
        except BaseException as exc:
            given.discard()  # else the application would wait for it
            await close_stream(stream)
            if not isinstance(exc, RuntimeError):
                raise
            failure = TrioasgiError(
                f"the server cannot serve a connection in the handler_nursery: {exc}. The nursery must be "
                "open for as long as the server accepts; to end both, cancel or drain the server too"
            )
            if hosted.phase is ServerPhase.SERVING and trio.current_effective_deadline() != -math.inf:
                raise failure from exc
            logger.log(logging.WARNING, _NOT_SERVED, failure)  # accepting ends anyway
            return False
        return True

    async def _accept_one(self, room: Room | None) -> trio.abc.Stream:
        """As the listener's `accept`, when there is `room`. If it is on a socket, OSError is a lack of files
        and nothing else.
        """
        if self._url is None:
            if room is not None:
                await room.wait(makes_room=False)  # only `accept` tells whether a client waits
            return cast("trio.abc.Stream", await self._listener.accept())
        try:
            if room is not None and self._sock is not None and self._sock.fileno() != -1:
                await trio.lowlevel.wait_readable(self._sock)
                await room.wait()
            return cast("trio.abc.Stream", await self._listener.accept())
        except OSError as exc:
            if exc.errno in NO_ROOM:
                raise
            raise broken_listener(self._url, exc.strerror) from exc
        except trio.ClosedResourceError as exc:
            raise broken_listener(self._url, str(exc)) from exc
        except trio.BusyResourceError as exc:
            raise TrioasgiError(
                f"the server cannot accept connections on {self._url}: another task accepts from the same "
                "listener. Give each listener to one server, and once"
            ) from exc
