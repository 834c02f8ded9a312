"""The protocols that are on, and the interface of their connections.

In TLS the two sides agree on a protocol by name (ALPN, RFC 7301). Without TLS, or if the client names none,
the first protocol that is on is spoken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextvars import Context

    import trio

    from trioasgi.http.exchange import Exchange
    from trioasgi.http.served import Served
    from trioasgi.net.channel import Channel
    from trioasgi.net.connection_info import ConnectionInfo


class Connection(Protocol):
    """A connection, as the server sees it."""

    channel: Channel

    @property
    def peer(self) -> str:
        """The name of its client in the log."""

    @property
    def is_busy(self) -> bool:
        """Is a request being answered?"""

    @property
    def waiting_since(self) -> float | None:
        """Since when it has waited for the first byte of a request, by Trio's clock. None if it does not, or
        was told to drain.
        """

    @property
    def exchange_under_way(self) -> Exchange | None:
        """The exchange for which the application is called now; None if there is no call."""

    async def run(self, scope: trio.CancelScope) -> Served:
        """Serve requests in the block of `scope`, which no other connection uses meanwhile, until the
        connection should be closed, needs another scope, or is served by another task.
        """

    def end_cancelled(self) -> None:
        """Note that the scope has cancelled `run`, which goes on in a new one."""

    def leave_scope(self) -> None:
        """Leave the scope alone from now on, as another connection is served in its block."""

    def drain(self) -> None:
        """Finish the request under way, and then serve no more."""

    def cut(self) -> None:
        """The task that runs the connection is cancelled: note that the response under way is cut, and close
        as `abort` does.
        """

    def abort(self) -> None:
        """Close at once, whatever is under way. A response that was whole is still delivered; one that is
        cut cannot be taken for a whole one.
        """


class ServerServices(msgspec.Struct, frozen=True):
    """What the server does for a connection."""

    context: Context
    """The context variables that each call of the application begins with."""
    start_task: Callable[[Callable[[], Awaitable[None]], str], None]
    """Starts a task for the connection of this peer. It may outlive its calls. A failure is logged."""
    take_over: Callable[[Connection], None]
    """Makes another task go on serving the connection."""


ConnectionFactory: TypeAlias = "Callable[[Channel, ConnectionInfo, ServerServices], Connection]"


class Protocols:
    """The protocols that are on, by their ALPN names, in order of preference."""

    def __init__(self, factories: Mapping[str, ConnectionFactory]) -> None:
        self._factories = factories
        self._first = next(iter(factories.values()))

    def choose(self, name: str | None) -> ConnectionFactory:
        """The factory for the protocol with the ALPN name `name`. None: no protocol was agreed on."""
        return self._first if name is None else self._factories.get(name, self._first)
