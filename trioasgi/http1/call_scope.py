"""`HTTP1CallScope`: the cancel scope of a connection's task, for as long as one call has it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioasgi.http1.connection import HTTP1Connection
    from trioasgi.http1.exchange import HTTP1Exchange


class HTTP1CallScope:
    """A `CallScope`.

    A scope for each call would cost every request what hardly any makes use of; so the calls of a
    connection share one, and this keeps one call from touching the next.
    """

    __slots__ = ("_connection", "_exchange", "_scope")

    def __init__(self, connection: HTTP1Connection, exchange: HTTP1Exchange) -> None:
        self._connection = connection
        self._exchange = exchange
        self._scope = connection.scope

    @property
    def _is_ours(self) -> bool:
        connection = self._connection
        # Where the connection has been handed over, the scope is that of this call alone.
        return connection.scope is not self._scope or connection.is_answering(self._exchange)

    def cancel(self) -> None:
        if self._is_ours:
            self._scope.cancel()
            self._connection.sets_deadlines = True

    @property
    def cancel_called(self) -> bool:
        return self._is_ours and self._scope.cancel_called

    @property
    def deadline(self) -> float:
        return self._scope.deadline if self._is_ours else math.inf

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        if self._is_ours:
            self._scope.deadline = deadline
            self._connection.sets_deadlines = True
