"""What the server of a worker does on its supervisor's behalf.

A supervisor may start a worker before it is needed, or try it before clients reach it. The application of
such a worker starts, and then it waits at a gate: it accepts nothing from the listening sockets until the
gate is opened. Meanwhile it may serve one private connection, whose other end the supervisor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import trio

if TYPE_CHECKING:
    import socket

    from trioasgi.server.acceptor import Acceptor
    from trioasgi.server.connections import Connections


class Gate:
    """Keeps a server whose application has started from accepting connections until `open()`.

    `private` is a connected socket that is served until then and after. `on_waiting` is called in the loop
    when the server has come to the gate.
    """

    def __init__(
        self, private: socket.socket | None = None, on_waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._private = private
        self._on_waiting = on_waiting
        self._opened = trio.Event()

    def open(self) -> None:
        """Let the server accept connections. To be called in its loop."""
        self._opened.set()

    async def wait(self, acceptor: Acceptor, connections: Connections, draining: trio.Event) -> None:
        """Return when the gate is open, or the server is about to stop."""
        if self._private is not None:
            acceptor.begin_private(self._private, connections)
            self._private = None
        self._on_waiting()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_set, draining, nursery.cancel_scope)
            await self._opened.wait()
            nursery.cancel_scope.cancel()


async def _end_when_set(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class UnderSupervisor(msgspec.Struct, frozen=True):
    """What the server of a worker leaves to the supervisor."""

    gate: Gate | None = None
    """Where it waits before it accepts connections; None: it does not wait."""
    on_limit: Callable[[], None] | None = None
    """Called when it has served its number of requests. It goes on serving; None: it drains."""
