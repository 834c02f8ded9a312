"""The door of a worker: requests that it has no room for are answered 503 before the application is called.

`Application` asks it about each request, if one of its limits is on. WebSockets that are open and requests
under way go on.
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import trio

from trioasgi.errors import ClientDisconnected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioasgi.http.exchange import Exchange
    from trioasgi.net.latency import LoopLatency

logger = logging.getLogger("trioasgi")

RETRY_AFTER: Final = (1, 3)
"""Seconds after which a client should come again (RFC 9110, 10.2.3): from, and up to. Those that are turned
away together should not come together.
"""

TELL_EVERY: Final = 10.0
"""Seconds between two log lines about requests above the limit of concurrency."""

_BODY: Final = b"503 the server is busy\n"
_FIELDS: Final = [
    (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_BODY)),
        (b"retry-after", b"%d" % seconds),
    )
    for seconds in range(RETRY_AFTER[0], RETRY_AFTER[1] + 1)
]


class Door:
    """Turns requests away while `concurrency` calls are under way (0: no limit), and those that a late loop
    has no time for (`latency`; None: however late it is).

    `exempt` are paths, decoded, whose requests are never turned away. Their calls count for the others.
    """

    def __init__(self, *, concurrency: int, latency: LoopLatency | None, exempt: Iterable[str]) -> None:
        self._concurrency = concurrency
        self._latency = latency
        self._exempt = frozenset(exempt)
        self._untold = 0
        self._tell_at = -math.inf

    def turns_away(self, exchange: Exchange, active: int, peer: str) -> bool:
        """Answer `exchange`, unless it may go to the application. `active` calls are under way."""
        full = 0 < self._concurrency <= active
        if not full and (self._latency is None or self._latency.has_time()):
            return False
        if self._exempt and unquote(exchange.request.path.decode("ascii")) in self._exempt:
            return False
        if full:
            self._tell_full(peer)
        elif self._latency is not None:
            self._latency.turned_away += 1
        _refuse(exchange)
        return True

    def _tell_full(self, peer: str) -> None:
        """Log this now and then. A line for each request would be work when there is too much already."""
        self._untold += 1
        now = trio.current_time()
        if now < self._tell_at:
            return
        also = f" (and {self._untold - 1} before it)" if self._untold > 1 else ""
        logger.warning(
            "%s: 503, as %d requests are served at once (--limit-concurrency)%s",
            peer,
            self._concurrency,
            also,
        )
        self._untold, self._tell_at = 0, now + TELL_EVERY


def _refuse(exchange: Exchange) -> None:
    """Answer 503 as an application would. The connection is kept: a new one would cost the worker more than
    the answer.
    """
    if exchange.request.websocket:
        exchange.decline_websocket()
    try:
        exchange.send_head(503, random.choice(_FIELDS))  # noqa: S311 - no secret
        exchange.send_body(_BODY, more=False)  # the connection flushes it, if it has to wait
    except ClientDisconnected:
        pass  # the client has gone
