"""How a server ends. Requests under way may finish within the grace, and are then cut.

Each stage has a deadline:

1. Requests end by themselves, or at the end of the grace (`cut_at_deadline`).
2. Tasks that their calls have left behind end, in what is left of the grace (`end_left_behind`).
3. So do the tasks that the application has started through the server (`end_background`).
4. The application's lifespan is shut down (`asgi/lifespan.py`).
5. What lifespan and tasks of stage 3 have left behind is ended (`end_last_left_behind`).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

from trioasgi.asgi.background import report_left_behind
from trioasgi.nurseries import LAST_MOMENTS, end_left_behind

if TYPE_CHECKING:
    from trioasgi.asgi.background import Background
    from trioasgi.server.connections import Connections
    from trioasgi.server.handle import Server

logger = logging.getLogger("trioasgi")


class Drain:
    """Drains `server`. `background` has the tasks of the application.

    `grace` and `shutdown` are in seconds: for requests under way, and for the lifespan's shutdown.
    """

    def __init__(self, server: Server, background: Background, *, grace: float, shutdown: float) -> None:
        self.nurseries: list[trio.Nursery] = []
        """The nurseries in which calls of the application run."""
        self._server = server
        self._background = background
        self._grace = grace
        self._shutdown = shutdown
        self._deadline = -math.inf

    def begin(self) -> None:
        """The grace begins now."""
        self._deadline = trio.current_time() + self._grace
        self._background.drain(self._deadline)

    async def cut_at_deadline(self, connections: Connections, busy: trio.CancelScope) -> None:
        """Wait for the end of the grace, and cut what is still under way."""
        await trio.sleep_until(self._deadline)
        if connections.are_busy:
            self._server.has_cut = True
            logger.warning(
                "requests that had not ended %g seconds after the server was told to stop were cut "
                "(--timeout-graceful-shutdown)",
                self._grace,
            )
        busy.cancel()
        await trio.sleep(LAST_MOMENTS)
        connections.abort()

    async def end_left_behind(self) -> None:
        """Wait for tasks that requests have left behind, for the rest of the grace. After the shutdown the
        application's resources are gone.
        """
        if not await end_left_behind(self.nurseries, self._deadline, report_left_behind):
            self._server.has_cut = True

    async def end_last_left_behind(self) -> None:
        """As `end_left_behind`, for tasks that the lifespan call and background tasks have left."""
        self._deadline = trio.current_time()
        with trio.CancelScope(shield=True):  # each wait within has a deadline
            await self.end_left_behind()

    async def end_background(self) -> None:
        """Let the tasks that the application has started through the server end, in what is left of the
        grace.
        """
        if not self._background.draining.is_set():  # serving has failed, or was cancelled
            self._background.drain(trio.current_time())
        # The nursery of the tasks is cancelled by whatever cancels this; it only has to be waited for.
        deadline = trio.current_time() + self._grace + self._shutdown
        with trio.CancelScope(shield=True, deadline=deadline):
            if not await self._background.close():
                self._server.has_cut = True
                logger.warning(
                    "tasks of the application that had not ended %g seconds after the server was told to "
                    "stop were cancelled (--timeout-graceful-shutdown)",
                    self._grace,
                )


async def abort_when_cancelled(connections: Connections, last_moments: trio.CancelScope) -> None:
    """When the server is cancelled, close the connections that a shielded wait keeps from ending: a wait for
    a client that takes nothing, say, ends with its connection. `last_moments` is shielded, and cancelled when
    there are no connections any more.
    """
    try:
        await trio.sleep_forever()
    finally:
        with last_moments:
            await trio.sleep(LAST_MOMENTS)
            connections.abort()
