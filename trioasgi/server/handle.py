"""A server that runs, as its program has hold of it."""

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
        self.listening = listening
        """Who accepts from the sockets, which may change until it drains."""
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
        if self.listening is Listening.WITH_OTHERS:
            self.listening = Listening.ALONE
        self.begin_drain()

    async def wait_draining(self) -> None:
        """Wait until the server drains, for whichever reason: it has stopped accepting, or is about to."""
        await self._draining.wait()

    def end(self) -> None:
        """It has ended: whoever waits in `drain` goes on."""
        self._draining.set()
        self._ended.set()
