"""Accepts connections from the server's listening sockets, and closes those when the server drains."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trioasgi.net.accept import (
    BATCH,
    LATE_BATCH,
    LONGEST_QUEUE,
    accept_connections,
    accept_waiting,
    broken_listener,
)
from trioasgi.net.kernel import refuse_newcomers
from trioasgi.net.listeners import close_listeners, remove_paths
from trioasgi.net.peers import as_client, as_peer, fixed_address
from trioasgi.net.redirecting import is_redirecting
from trioasgi.net.stream import HubStream, as_stream
from trioasgi.server.progress import Listening
from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    from trioasgi.net.accept import Intake
    from trioasgi.net.hub import Hub
    from trioasgi.net.latency import LoopLatency
    from trioasgi.net.peers import Peer
    from trioasgi.server.connections import Connections
    from trioasgi.server.room import Room

logger = logging.getLogger("trioasgi")

HANDSHAKE: Final = 0.05
"""Seconds that a socket which refuses new clients stays open for those whose handshake with the kernel has
begun. A client whose last packet of it comes later is reset, though for itself it is connected.
"""

_LOOPBACK: Mapping[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def _is_of_this_world(clock: trio.abc.Clock) -> bool:
    """Does its time pass as the kernel's does? That of a `trio.testing.MockClock` stands still."""
    return clock.deadline_to_sleep_time(clock.current_time() + HANDSHAKE) < 2 * HANDSHAKE


class _Listener(msgspec.Struct, frozen=True):
    """A listening socket, with what its connections have in common."""

    sock: socket.socket
    url: str
    family: int
    server: Peer | None
    """The server's address; None if it differs from connection to connection."""
    redirects: bool
    """Do its connections only redirect to https?"""


class _Intake:
    """As many as there is room for, and more of them while a late loop turns requests away."""

    def __init__(self, room: Room | None, latency: LoopLatency | None) -> None:
        self._room = room
        self._latency = latency

    async def wait(self) -> int:
        left = LATE_BATCH if self._room is None else await self._room.wait()
        is_late = self._latency is not None and self._latency.is_late
        return min(left, LATE_BATCH if is_late else BATCH)


class Acceptor:
    """Accepts from `sockets`, whose URLs are `urls`, and gives each connection to the `Connections`.

    `owns_sockets`: does no other server use these sockets?
    """

    hub: Hub | None = None
    """The hub of the connections' sockets; None where Trio waits for them."""

    latency: LoopLatency | None = None
    """How late the loop is; None if nothing depends on it."""

    def __init__(self, sockets: Sequence[socket.socket], urls: Sequence[str], *, owns_sockets: bool) -> None:
        self._sockets = sockets
        # `socket.family` makes an Enum member of a number each time.
        self._listeners = [
            _Listener(sock, url, sock.family, fixed_address(sock), is_redirecting(sock))
            for sock, url in zip(sockets, urls, strict=True)
        ]
        self._owns_sockets = owns_sockets
        self._is_refusing = False

    def start(self, nursery: trio.Nursery, connections: Connections) -> None:
        """Accept, in a task for each socket, until `nursery` is cancelled."""
        for listener in self._listeners:
            start_soon(nursery, self._accept, listener, connections)

    async def _accept(self, listener: _Listener, connections: Connections) -> None:
        """Accept from one socket. Raises TrioasgiError if the socket cannot be accepted from any more."""
        try:
            take = partial(self._take, listener, connections)
            await accept_connections(listener.sock, take, self._intake(connections.room), self.hub)
        except OSError as exc:
            if not self._is_refusing:  # else it would be closed in a moment anyway
                raise broken_listener(listener.url, exc.strerror) from exc

    def _intake(self, room: Room | None) -> Intake | None:
        return None if room is None and self.latency is None else _Intake(room, self.latency)

    async def refuse(self, listening: Listening) -> None:
        """Refuse new clients, so that a load balancer sends them elsewhere at once. Return when those have
        come whose handshake with the kernel had begun.
        """
        if listening is not Listening.ALONE:
            return  # others may go on with the sockets
        self._is_refusing = True
        remove_paths(self._sockets)
        if self._owns_sockets:
            for listener in self._listeners:
                refuse_newcomers(listener.sock)
        if _is_of_this_world(trio.lowlevel.current_clock()):
            await trio.sleep(HANDSHAKE)

    def stop(self, connections: Connections, listening: Listening) -> None:
        """Take what waits in the queues, if nobody else does, and close the sockets. Call `refuse` before."""
        if listening in (Listening.ALONE, Listening.TAKEN_OVER):
            for listener in self._listeners:
                self._take_waiting(listener, connections)
        self.close()

    def close(self) -> None:
        """Close the sockets, and reset what waits in the queues that nobody else has."""
        for sock in self._sockets:
            with suppress(OSError):  # it was closed from outside of the server
                close_listeners([sock])

    def _take_waiting(self, listener: _Listener, connections: Connections) -> None:
        """Accept the connections in the queue of a socket that is about to be closed: a close would reset
        them. There is room for these: no more will come.
        """
        try:
            accept_waiting(listener.sock, partial(self._take, listener, connections), LONGEST_QUEUE)
        except OSError as exc:
            logger.warning("clients that waited for the server when it stopped are not served: %s", exc)

    def _take(
        self,
        listener: _Listener,
        connections: Connections,
        connection: socket.SocketType,
        address: object,
    ) -> None:
        """Serve an accepted connection in a task of its own."""
        client = as_client(address, listener.family)
        if connections.admission is not None and not connections.admission.admits(client):
            connection.close()
            return
        try:
            server = listener.server or as_peer(connection.getsockname(), listener.family)
            stream = self._make_stream(
                connection, waits=connections.begins_with_steps(redirects=listener.redirects)
            )
        except OSError as exc:
            # The client has reset it, or epoll has no room for another socket.
            logger.warning("a connection could not be served: %s", exc)
            connection.close()
            return
        connections.begin(stream, client, server, redirects=listener.redirects)

    def begin_private(self, connection: socket.socket, connections: Connections) -> None:
        """Serve a connected socket that does not come from a listening one, without TLS or a PROXY header.

        Its other end is a process of this machine. Applications rely on the addresses that a connection has
        where the server listens on TCP, so it has those of one over the loopback interface.
        """
        connection.setblocking(False)
        try:
            stream = self._make_stream(connection, waits=True)
        except OSError as exc:
            logger.warning("the supervisor's connection could not be served: %s", exc)
            connection.close()
            return
        connections.begin_plain(stream, *self._loopback_peers())

    def _loopback_peers(self) -> tuple[Peer | None, Peer | None]:
        """The client's and the server's address of a connection over loopback. No client has port 0."""
        for listener in self._listeners:
            host = _LOOPBACK.get(listener.family)
            if host is not None and not listener.redirects:
                return (host, 0), (host, listener.sock.getsockname()[1])
        return None, None

    def _make_stream(self, connection: socket.SocketType, *, waits: bool) -> trio.abc.Stream:
        if self.hub is None:
            return _trio_stream(connection)
        return as_stream(HubStream(connection, self.hub, waits=waits))


def _trio_stream(connection: socket.SocketType) -> trio.SocketStream:
    """A plain Trio stream: where there is no hub."""
    own = socket.socket(connection.family, connection.type, connection.proto, connection.detach())
    return trio.SocketStream(trio.socket.from_stdlib_socket(own))
