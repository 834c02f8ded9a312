"""How an HTTP/1 response is lost: cut by the server, or by the end of its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.errors import ClientDisconnected
from trioasgi.http.exchange import Exchange
from trioasgi.http.response import ResponsePhase
from trioasgi.http1.framing import Framing

if TYPE_CHECKING:
    from trioasgi.http1.state import ConnectionState

ALERT_SIZE: Final = 64
"""TLS's last words are shorter."""

_COMPLETE: Final = ResponsePhase.COMPLETE
_REFUSED: Final = ResponsePhase.REFUSED
_FAILED: Final = ResponsePhase.FAILED
_CHUNKED: Final = Framing.CHUNKED


class Failure:
    """Why a response was refused or cut; `lost` counts bytes that had not left when the connection broke."""

    __slots__ = ("by_server", "lost", "reason")

    def __init__(self, reason: str, by_server: bool = False, lost: int | None = None) -> None:
        self.reason = reason
        self.by_server = by_server
        self.lost = lost


class LosableResponse(Exchange):
    """What a response knows of its own failure. `HTTP1Response` sends it."""

    __slots__ = (
        "_connection",
        "_failure",
        "_framing",
        "_head",
        "_recallable",
        "close_after",
    )

    # `HTTP1Exchange.__init__` sets all of these: an __init__ here would be one more call for each request.
    _connection: ConnectionState
    _framing: Framing
    _head: bytes
    """Waits for the first piece of body."""
    _recallable: bytes
    """A head that has been sent, and may not have left yet."""
    _failure: Failure | None
    close_after: bool
    """Will the connection be closed after the response?"""

    @property
    def failure(self) -> str:
        return "" if self._failure is None else self._failure.reason

    @property
    def cut_by_server(self) -> bool:
        return self._failure is not None and self._failure.by_server

    @property
    def delivered(self) -> int | None:
        if self.phase is _COMPLETE:
            return self.sent
        lost = self._unsent
        # The bytes of the chunked coding are not counted. They are estimated: fewer than those of the head.
        framing = len(self._recallable) - 1 if self._framing is _CHUNKED else 0
        if self._head or not self.status or lost > self.sent + framing:
            return None
        return max(0, self.sent - lost)

    @property
    def _unsent(self) -> int:
        """Bytes that have not left; once the connection is broken, those that had not left then."""
        lost = None if self._failure is None else self._failure.lost
        return self._connection.channel.unsent if lost is None else lost

    def cut_off(self, reason: str) -> None:
        """The connection ends now. Note what has not left yet."""
        connection = self._connection
        if not self.over:
            connection.log_limit(reason)
            self._note_lost(reason, by_server=not connection.channel.hung_up)
        elif self.phase is _REFUSED and connection.channel.unsent:
            self._note_lost(self.failure, by_server=not connection.channel.hung_up)
        self.end()

    def abort(self, reason: str) -> None:
        if self.can_fail:
            connection = self._connection
            connection.log_limit(reason)
            has_gone = connection.channel.hung_up or connection.channel.is_broken
            self._give_up(Failure(reason, by_server=not has_gone))

    def _stalled(self) -> ClientDisconnected:
        """Give the response up, because the client takes nothing of it. Return the exception to raise."""
        if self.phase is _FAILED:  # another task has noted why
            self._lose(self.failure, by_server=self.cut_by_server)
        else:
            self._connection.log_limit("the client took nothing of the response for too long")
            self._lose("the client stopped reading the response", by_server=True)
        return ClientDisconnected(self.failure)

    def _broken(self, exc: OSError) -> ClientDisconnected:
        """Give the response up, because nothing more can be sent. Return the exception to raise."""
        if self.phase is _FAILED:
            pass  # another task has noted why, and the connection closes
        elif isinstance(exc, ConnectionAbortedError):
            # Not by the client: a piece was given up, or the program has closed the stream. An earlier
            # response may be on its way, so the connection is left to its close.
            self._note_lost("a part of the response was given up", by_server=True)
        else:
            self._note_lost("the client broke the connection", by_server=False)
            channel = self._connection.channel
            if self._may_follow_another():
                channel.interrupt_writes()
            else:
                channel.abort()
        return ClientDisconnected(self.failure)

    def _may_follow_another(self) -> bool:
        """May an earlier response still be on its way, which a reset would destroy? On a dead connection it
        is not; but the client may have broken TLS alone. Off the hub a reset waits for what has left.
        """
        channel = self._connection.channel
        if channel.is_dead or not channel.tells_of_hang_up:
            return False
        return channel.undelivered > (self.delivered or 0) + ALERT_SIZE

    def _lose(self, reason: str, *, by_server: bool) -> None:
        """The connection is broken: end all waits for it, and close it."""
        self._note_lost(reason, by_server=by_server)
        self._connection.channel.abort()

    def _note_lost(self, reason: str, *, by_server: bool) -> None:
        self._connection.note_lost()
        self._give_up(Failure(reason, by_server, self._unsent))

    def _give_up(self, failure: Failure) -> None:
        self._failure = failure
        self.phase = _FAILED
        self.close_after = True
        self._end_waits()

    def _end_waits(self) -> None:
        """End the waits of other tasks in `receive()`: the exchange is over."""
        connection = self._connection
        connection.channel.release_watchers()
        connection.channel.interrupt_read()  # from here on the connection reads
