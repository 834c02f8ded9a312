"""Room for connections: with `--limit-connections` no more are accepted until one ends.

Clients that come meanwhile wait in the queue of the listening socket; none is refused or reset. While clients
wait, connections that wait for a request make room: the quarter of them that has waited for longest is asked
to end, as by a server that drains. So a request that is on its way is still answered.
"""

from __future__ import annotations

import heapq
import logging
import math
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("trioasgi")

LOOK_EVERY: Final = 0.5
"""Seconds between two looks for connections that can make room. An idle one that is asked to ends within as
many, and one that has sent nothing yet within twice as many (`http1.connection`).
"""

LEAST: Final = 16
"""So many are asked at once, if there are as many."""

TELL_AFTER: Final = 10.0
"""Seconds without a client that had to wait, after which it is logged again that one has to."""


class Waiting(Protocol):
    """A connection that may wait for a request."""

    @property
    def waiting_since(self) -> float | None:
        """Since when it has waited for the first byte of a request, by Trio's clock; None if it does not."""

    def drain(self) -> None:
        """Answer a request that is on its way, and end."""


class Held(Protocol):
    """The connections that are open."""

    def __len__(self) -> int: ...

    def open_connections(self) -> Iterable[Waiting]:
        """Those that can be asked to end."""


class Room:
    """At most `most` connections are open at once. `held` are those that are."""

    def __init__(self, most: int, held: Held) -> None:
        self._most = most
        self._held = held
        self._freed = trio.Event()
        self._waiting = 0
        self._full_until = -math.inf
        self._look_at = -math.inf

    def note_end(self) -> None:
        """Note that a connection has ended."""
        if self._waiting:
            self._freed.set()

    async def wait(self, *, makes_room: bool = True) -> int:
        """Wait until there is room, and return for how many connections. It is no checkpoint if there is.

        `makes_room`: is it known that a client waits?
        """
        if len(self._held) < self._most:
            return self._most - len(self._held)
        if not self._waiting and trio.current_time() > self._full_until + TELL_AFTER:
            logger.warning(
                "%d connections are open: further clients wait until one ends (--limit-connections)",
                len(self._held),
            )
        self._waiting += 1
        try:
            while len(self._held) >= self._most:
                if makes_room:
                    self._make_room()
                if self._freed.is_set():
                    self._freed = trio.Event()
                with trio.move_on_after(LOOK_EVERY):
                    await self._freed.wait()
        finally:
            self._waiting -= 1
            self._full_until = trio.current_time()
        return self._most - len(self._held)

    def _make_room(self) -> None:
        now = trio.current_time()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY
        found = [
            (since, number, connection)
            for number, connection in enumerate(self._held.open_connections())
            if (since := connection.waiting_since) is not None
        ]
        for _, _, connection in heapq.nsmallest(max(LEAST, len(found) // 4), found):
            connection.drain()
