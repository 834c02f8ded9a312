"""Cancels a call whose client has gone (`--cancel-on-disconnect`).

It is cancelled after a grace (`--disconnect-grace`). A client that has closed only its sending side looks the
same, but still reads. So the grace begins again with each piece of the response that leaves, and does not run
while a piece waits to leave. If the client has really gone, its kernel answers the next piece with a reset,
and `send()` raises. The grace begins then for the last time. A call that has given its whole response goes
on.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.http.response import ResponsePhase
from trioasgi.http1.settings import GivesUp

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.http1.state import ConnectionState


_CONCERNED: Final = {
    GivesUp.NEVER: (),
    GivesUp.STREAMS: (ResponsePhase.STARTED, ResponsePhase.FAILED),
    GivesUp.ALWAYS: (
        ResponsePhase.NOT_STARTED,
        ResponsePhase.STARTED,
        ResponsePhase.REFUSED,
        ResponsePhase.FAILED,
    ),
}
"""The phases of the response in which the call is cancelled, by `--cancel-on-disconnect`. The server may have
ended the response before its client went, while the call goes on.
"""


class GivingUp:
    """Cancels the calls of one connection. It is made when the client has gone, or when the channel cannot
    tell.

    The connection is given to each method and not kept. In a circle, both would be freed only by the garbage
    collector, with all that a WebSocket has received.
    """

    __slots__ = ("_deadline", "_deadline_before", "_is_whole", "_watched", "pending")

    def __init__(self) -> None:
        self._deadline = math.inf
        self._deadline_before = math.inf
        self._watched: Exchange | None = None
        self._is_whole = False  # was the response that is lost given whole? No other follows it
        self.pending = False
        """Is the call to be cancelled?"""

    def attend(self, connection: ConnectionState) -> None:
        """A piece of a response has left: begin the grace again. If the channel cannot tell that the client
        goes, watch for its end.
        """
        channel = connection.channel
        if channel.hung_up:
            self.begin(connection)
        elif not channel.tells_of_hang_up:
            self._watch(connection)

    def begin(self, connection: ConnectionState, *, lost: bool = False) -> None:
        """The client has gone: begin the grace of the call that is under way, if it may be cancelled. `lost`:
        no piece can leave any more.
        """
        exchange = connection.call_under_way
        if exchange is not None and exchange.phase is ResponsePhase.ENDING:
            self._spare(connection, lost=lost)
        if self._is_whole or _exchange_to_cancel(connection) is None:
            return
        scope = connection.scope
        if scope.cancel_called:
            return
        self._deadline_before = self.deadline_before(scope.deadline)
        self.pending = True
        connection.sets_deadlines = True
        grace = math.inf if connection.flushing and not lost else connection.settings.disconnect_grace
        self._deadline = trio.current_time() + grace
        scope.deadline = min(self._deadline_before, self._deadline)

    def _spare(self, connection: ConnectionState, *, lost: bool) -> None:
        """The call has given its whole response. End a grace that has begun before."""
        self._is_whole = lost
        if self.pending:
            connection.scope.deadline = self.deadline_before(connection.scope.deadline)
            self.pending = False

    def deadline_before(self, deadline: float) -> float:
        """What the deadline of the call would be if its client were still there. Now it is `deadline`."""
        is_ours = self.pending and deadline == min(self._deadline_before, self._deadline)
        return self._deadline_before if is_ours else deadline

    def has_set(self, deadline: float) -> bool:
        """Is `deadline`, which the call has, the end of the grace?"""
        return self.pending and deadline == self._deadline

    def _watch(self, connection: ConnectionState) -> None:
        """Start a task that reads ahead, up to a bound: only a read tells of the client's end."""
        if connection.reader.body is not None:
            return  # the application reads the body, or will
        exchange = _exchange_to_cancel(connection)
        if exchange is not None and self._watched is not exchange:
            self._watched = exchange
            connection.start_task(partial(self._wait_for_end, connection, exchange), connection.info.peer)

    async def _wait_for_end(self, connection: ConnectionState, exchange: Exchange) -> None:
        try:
            await exchange.wait_disconnected()
        finally:
            if self._watched is exchange:
                self._watched = None
        if connection.channel.hung_up and _exchange_to_cancel(connection) is exchange:
            self.begin(connection)


def _exchange_to_cancel(connection: ConnectionState) -> Exchange | None:
    """The exchange that the application is called for now, if that call is one to cancel."""
    exchange = connection.call_under_way
    if exchange is None or exchange.phase not in _CONCERNED[connection.settings.gives_up]:
        return None
    return exchange
