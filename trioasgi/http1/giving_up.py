"""What becomes of a call whose client has gone (`--cancel-on-disconnect`).

It is cancelled after the grace (`--disconnect-grace`). A client that has closed its sending side alone looks
the same and may read on: so the grace begins anew with each piece of the response that leaves, and does not
run while one is on its way. Who has really gone answers the next piece with a reset, which ends the call at
once.
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
    GivesUp.STREAMS: (ResponsePhase.STARTED,),
    GivesUp.ALWAYS: (ResponsePhase.NOT_STARTED, ResponsePhase.STARTED),
}
"""How far the response of a call may have come that is cancelled."""


class GivingUp:
    """Watches over the calls of one connection; made when its client has gone, or has to be looked for."""

    __slots__ = ("_connection", "_deadline_before", "_watched", "pending")

    def __init__(self, connection: ConnectionState) -> None:
        self._connection = connection
        self._deadline_before = math.inf
        self._watched: Exchange | None = None
        self.pending = False
        """Is the call to be cancelled?"""

    def attend(self) -> None:
        """A response is under way, or has gone on: begin the grace, or look for the client's end where the
        channel does not tell of it.
        """
        channel = self._connection.channel
        if channel.hung_up:
            self.begin()
        elif not channel.tells_of_hang_up:
            self._watch()

    def begin(self) -> None:
        """The client has gone: begin the grace of the call that is under way, if there is one to cancel."""
        connection = self._connection
        if self._exchange is None:
            return
        scope = connection.scope
        if not self.pending:
            self.pending = True
            self._deadline_before = scope.deadline
            connection.sets_deadlines = True
        grace = math.inf if connection.flushing else connection.settings.disconnect_grace
        scope.deadline = min(self._deadline_before, trio.current_time() + grace)

    @property
    def _exchange(self) -> Exchange | None:
        """The exchange that the application is called for now, if that call is one to cancel."""
        connection = self._connection
        exchange = connection.exchange_under_way
        if exchange is None or exchange.phase not in _CONCERNED[connection.settings.gives_up]:
            return None
        return exchange

    def _watch(self) -> None:
        """Have a task read ahead, up to a bound, until the client's end: no other way tells of it."""
        exchange = self._exchange
        if self._connection.reader.body is not None:
            return  # the application reads, or will
        if exchange is not None and self._watched is not exchange:
            self._watched = exchange
            self._connection.start_task(partial(self._wait_for_end, exchange))

    async def _wait_for_end(self, exchange: Exchange) -> None:
        await exchange.wait_disconnected()
        if self._connection.channel.hung_up and self._exchange is exchange:
            self.begin()
