"""The names of connections' tasks in Trio's task tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trioasgi.server.protocols import Connection

LONGEST_TARGET: Final = 100
"""Characters of a request target that a name shows."""


class ConnectionName(str):
    """`connection from 192.0.2.7:4711`, and while a call is under way `…: GET /path`.

    The request is looked up when somebody prints the name, so requests cost nothing. Trio keeps a name as it
    is if it is a `str`. As text (`join`, comparison) it is the name without a request.
    """

    __slots__ = ("_connection", "_request")

    _connection: Connection | None
    _request: str
    """What a task that has lost its connection is doing."""

    def __new__(cls, connection: Connection) -> ConnectionName:
        name = str.__new__(cls, f"connection from {connection.peer}")
        name._connection = connection
        name._request = ""
        return name

    def keep(self) -> None:
        """Keep the request that is under way now, as another task takes the connection over."""
        self._request = self._request_under_way()
        self._connection = None

    def _request_under_way(self) -> str:
        exchange = None if self._connection is None else self._connection.exchange_under_way
        if exchange is None:
            return self._request
        request = exchange.request
        target = request.target.decode("ascii", "replace")
        if len(target) > LONGEST_TARGET:
            target = f"{target[:LONGEST_TARGET]}…"
        return f": {'WebSocket' if request.websocket else request.method} {target}"

    def __str__(self) -> str:
        return f"{super().__str__()}{self._request_under_way()}"

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)
