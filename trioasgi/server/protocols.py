"""Which protocol a connection speaks, and what the server needs of it, whichever it is.

TLS agrees on a protocol by its name (ALPN, RFC 7301). Where there is no TLS, or the client names none, it is
the first that is on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextvars import Context

    from trioasgi.net.channel import Channel
    from trioasgi.net.peers import ConnectionInfo


class Connection(Protocol):
    """A connection, as the server sees it."""

    channel: Channel

    @property
    def peer(self) -> str:
        """How the log names its client."""

    @property
    def is_busy(self) -> bool:
        """Is a request being answered?"""

    async def run(self) -> bool:
        """Serve until the connection is to be closed, which is left to the caller.

        False if it is not the caller's any more: another task serves it on.
        """

    def drain(self) -> None:
        """Serve what is under way, and then no more."""

    def cut(self) -> None:
        """The task that runs it is cancelled from outside: end what it answers."""


class ServerServices(NamedTuple):
    """What a connection is given by the server in which it lives."""

    context: Context
    """The context variables that each call of the application begins with."""
    start_task: Callable[[Callable[[], Awaitable[None]]], None]
    """Starts a task that belongs to the connection, and may outlive its calls."""
    take_over: Callable[[Connection], None]
    """Has another task serve the connection on."""


ConnectionFactory: TypeAlias = "Callable[[Channel, ConnectionInfo, ServerServices], Connection]"


class Protocols:
    """The protocols that are on, by their ALPN names, in order of preference."""

    def __init__(self, factories: Mapping[str, ConnectionFactory]) -> None:
        self._factories = factories
        self._first = next(iter(factories.values()))

    def choose(self, name: str | None) -> ConnectionFactory:
        """What makes connections of the protocol that was agreed on by `name` (None: by none)."""
        return self._first if name is None else self._factories.get(name, self._first)
