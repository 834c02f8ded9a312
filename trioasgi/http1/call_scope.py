"""`HTTP1CallScope`: the cancel scope of a connection's task, for as long as one call has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from trioasgi.http1.state import ConnectionState


class HasScope(Protocol):
    """An exchange: `scope` is that of the task which makes its call, for as long as the call is under way."""

    scope: trio.CancelScope | None


class HTTP1CallScope:
    """A `CallScope`.

    A scope for each call would cost every request what hardly any makes use of; so the calls that one task
    makes share one, and this keeps one call from touching the next. The exchange knows the scope for as long
    as its call is under way, also where the connection has been handed over; an application may keep this for
    longer, or ask for it late.
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
