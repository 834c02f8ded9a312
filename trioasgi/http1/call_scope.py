"""`HTTP1CallScope`: lends the cancel scope of a connection's task to one call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from trioasgi.http1.state import ConnectionState


class HasScope(Protocol):
    """An exchange. `scope` is that of the task that makes its call, and None after the call."""

    scope: trio.CancelScope | None


class HTTP1CallScope:
    """A `CallScope`.

    All calls that one task makes share one cancel scope, so a request need not make one. This object keeps a
    call from touching the next one: it finds the scope in its exchange, and only while the call is under way.
    An application may keep this object longer, or ask for it late.
    """

    __slots__ = ("_connection", "_exchange")

    def __init__(self, connection: ConnectionState, exchange: HasScope) -> None:
        self._connection = connection
        self._exchange = exchange

    def cancel(self) -> None:
        scope = self._exchange.scope
        if scope is not None:
            scope.cancel()
            self._connection.sets_deadlines = True

    @property
    def cancel_called(self) -> bool:
        scope = self._exchange.scope
        return scope is not None and scope.cancel_called

    @property
    def deadline(self) -> float:
        scope = self._exchange.scope
        return math.inf if scope is None else scope.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        scope = self._exchange.scope
        if scope is not None:
            scope.deadline = deadline
            self._connection.sets_deadlines = True
