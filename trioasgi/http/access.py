"""The access log's line for an exchange."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from trioasgi.http.response import ResponsePhase
from trioasgi.observe.access import CUT_OFF, UNANSWERED

if TYPE_CHECKING:
    from trioasgi.http.exchange import Exchange
    from trioasgi.observe.access import AccessLog


class AccessEntry:
    """The line of one exchange from `peer`. Its duration begins when this object is made.

    It is written when the response has left, or has been cut. The application may return long before that, or
    long after.
    """

    __slots__ = ("_log", "_peer", "_started")

    def __init__(self, log: AccessLog, peer: str) -> None:
        self._log = log
        self._peer = peer
        self._started = perf_counter()

    def write(self, exchange: Exchange) -> None:
        """Write the line; for `Exchange.on_end`."""
        request = exchange.request
        delivered = exchange.delivered
        status = exchange.status
        if delivered is None:
            status = CUT_OFF if exchange.cut_by_server else UNANSWERED
        self._log.log(
            self._peer,
            request.method,
            request.target.decode("ascii", "replace"),
            request.http_version,
            status,
            delivered or 0,
            perf_counter() - self._started,
            cut=exchange.phase is ResponsePhase.FAILED,
        )
