"""The deadlines of the call that is under way on a connection: that of `--request-timeout`, the one that the
application sets, and the grace of a client that has gone. All are deadlines of the cancel scope that the
calls of a task share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trioasgi.http1.giving_up import GivingUp
from trioasgi.http1.phase import ConnectionPhase
from trioasgi.http1.refusals import Cancelled, refuse_cancelled
from trioasgi.http1.settings import GivesUp
from trioasgi.http1.state import ConnectionState

if TYPE_CHECKING:
    from trioasgi.http1.exchange import HTTP1Exchange


class CallDeadlines(ConnectionState):
    """What a connection does with the deadline of its `scope`."""

    __slots__ = ("_exchange", "_giving_up", "_request_deadline", "phase")

    # `HTTP1Connection.__init__` sets all of these.
    _exchange: HTTP1Exchange | None
    """The one that is being answered, or was last."""
    _giving_up: GivingUp | None
    _request_deadline: float
    """What `--request-timeout` sets for the call that is under way."""
    phase: ConnectionPhase

    def response_over(self) -> None:
        scope, exchange = self.scope, self._exchange
        if scope.deadline != math.inf:
            # The accepted handshake of a WebSocket is a response, but the call has only begun.
            is_websocket = exchange is not None and exchange.status == 101
            scope.deadline = self._own_deadline() if is_websocket else math.inf
        if self._giving_up is not None:
            self._giving_up.pending = False

    def _own_deadline(self) -> float:
        """The deadline that the application has set for the call that is under way; infinity if none."""
        deadline = self.scope.deadline
        if self._giving_up is not None:
            deadline = self._giving_up.deadline_before(deadline)
        return math.inf if deadline == self._request_deadline else deadline

    def _set_deadline(self) -> None:
        if self.settings.request_timeout:
            self._request_deadline = trio.current_time() + self.settings.request_timeout
            self.scope.deadline = self._request_deadline
        if self.channel.hung_up:
            self._note_gone()

    def end_cancelled(self) -> None:
        """The scope was cancelled, by the deadline of a call or by the application: answer in place of the
        call, or cut.
        """
        exchange = self._exchange
        if exchange is not None and exchange.can_fail:
            late = trio.current_time() >= self.scope.deadline
            refuse_cancelled(exchange, self.info.peer, self._why_cancelled(late=late))

    def _why_cancelled(self, *, late: bool) -> Cancelled:
        deadline = self.scope.deadline
        if not late:
            return Cancelled.BY_APPLICATION
        if self._giving_up is not None and self._giving_up.has_set(deadline):
            return Cancelled.CLIENT_GONE
        return Cancelled.REQUEST_TIMEOUT if deadline == self._request_deadline else Cancelled.OWN_DEADLINE

    def _note_gone(self) -> None:
        if self.phase is ConnectionPhase.CLOSING:
            return  # no call is under way any more
        self.attends = True
        self._watch().begin(self)

    def attend(self) -> None:
        self._watch().attend(self)

    def note_lost(self) -> None:
        if self.settings.gives_up is not GivesUp.NEVER:
            self._watch().begin(self, lost=True)

    def _watch(self) -> GivingUp:
        """What cancels a call after its client has gone."""
        if self._giving_up is None:
            self._giving_up = GivingUp()
        return self._giving_up
