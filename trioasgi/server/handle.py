"""`Server`: how a program controls a running server."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

import trio

from trioasgi.net.listeners import socket_address, socket_url

if TYPE_CHECKING:
    from trioasgi.net.listeners import SocketAddress


class Listening(Enum):
    """Who accepts from the listening sockets. This decides what happens to them when the server drains."""

    FOR_CALLER = "this server's duplicates are closed; the caller's own sockets stay open"
    WITH_OTHERS = "this process's copies are closed; what waits in the queues is for the other workers"
    ALONE = "what waits in the queues is taken, then they are closed: further clients are refused"


class Server:
    """A server that accepts connections: what `nursery.start(serve, …)` returns.

    `addresses` are the results of `getsockname()` for its listening sockets. `urls` are their URLs for a
    client on this machine.
    """

    def __init__(self, sockets: Sequence[socket.socket], *, tls: bool, listening: Listening) -> None:
        self.addresses: tuple[SocketAddress, ...] = tuple(socket_address(sock) for sock in sockets)
        self.urls = tuple(socket_url(sock, tls) for sock in sockets)
        self.has_cut = False
        """Were requests or tasks of the application cancelled at the end of the grace?"""
        self.has_reached_limit = False
        """Does it stop because it has served `limit_max_requests` requests?"""
        self.listening = listening
        """Who accepts from the sockets. It may change until the server drains."""
        self._draining = trio.Event()
        self._ended = trio.Event()

    def __repr__(self) -> str:
        state = "draining" if self._draining.is_set() else "serving"
        if self._ended.is_set():
            state = "ended"
        return f"<trioasgi.Server on {', '.join(self.urls)}: {state}>"

    async def drain(self) -> None:
        """Stop accepting, let requests finish within the grace, shut the application down, and return at the
        end of `serve`.

        A request of this server must not await it: the drain waits for that request.
        """
        self.begin_drain()
        await self._ended.wait()

    def begin_drain(self) -> None:
        """Begin to drain, and do not wait. Any task of the same Trio run may call this."""
        self._draining.set()

    def begin_last_drain(self) -> None:
        """As `begin_drain`, for a worker when all workers stop. It then also serves the connections that wait
        in the queues of the shared sockets.
        """
        if self.listening is Listening.WITH_OTHERS:
            self.listening = Listening.ALONE
        self.begin_drain()

    async def wait_draining(self) -> None:
        """Wait until the server drains, for any reason. It has stopped accepting then, or is about to."""
        await self._draining.wait()

    def end(self) -> None:
        """Note that the server has ended. Tasks that wait in `drain` go on."""
        self._draining.set()
        self._ended.set()
