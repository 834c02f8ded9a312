"""What the server of a worker does on its supervisor's behalf.

A supervisor may start a worker before it is needed, or try it before clients reach it. The application of
such a worker starts, and then it waits at a gate: it accepts nothing from the listening sockets until the
gate is opened. Meanwhile it may serve private connections, whose other ends the supervisor has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    import socket

    from trioasgi.server.acceptor import Acceptor
    from trioasgi.server.connections import Connections


class Gate:
    """Keeps a server whose application has started from accepting connections until `open()`.

    `private` are connected sockets, each of which is served from the first byte that comes on it: an idle one
    would be closed, as of a slow client. `on_waiting` is called in the loop when the server has come to the
    gate.
    """

    def __init__(
        self, private: Sequence[socket.socket] = (), on_waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._private = [*private]
        self._on_waiting = on_waiting
        self._opened = trio.Event()

    def open(self) -> None:
        """Let the server accept connections. To be called in its loop."""
        self._opened.set()

    async def wait(self, acceptor: Acceptor, connections: Connections, draining: trio.Event) -> None:
        """Return when the gate is open, or the server is about to stop."""
        self._on_waiting()
        try:
            async with trio.open_nursery() as nursery:
                start_soon(nursery, _end_when_set, draining, nursery.cancel_scope)
                start_soon(nursery, self._serve_private, acceptor, connections)
                await self._opened.wait()
                nursery.cancel_scope.cancel()
        finally:
            for connection in self._private:
                connection.close()

    async def _serve_private(self, acceptor: Acceptor, connections: Connections) -> None:
        """Begin one after the other. The supervisor uses the next when an answer has closed one."""
        while self._private:
            await trio.lowlevel.wait_readable(self._private[0])
            acceptor.begin_private(self._private.pop(0), connections)


async def _end_when_set(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class UnderSupervisor(msgspec.Struct, frozen=True):
    """What the server of a worker leaves to the supervisor."""

    gate: Gate | None = None
    """Where it waits before it accepts connections; None: it does not wait."""
    on_limit: Callable[[], None] | None = None
    """Called when it has served its number of requests. It goes on serving; None: it drains."""
    on_done_accepting: Callable[[], None] = lambda: None
    """Called once in the loop, when its listening sockets are closed, whether it has served or not."""
    on_shutdown: Callable[[], None] = lambda: None
    """Called in the loop when the lifespan of the application is about to shut down."""


WITHOUT_SUPERVISOR: Final = UnderSupervisor()
