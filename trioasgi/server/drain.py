"""How a server ends. Requests under way may finish within the grace, and are then cut.

Each stage has a deadline:

1. Requests end by themselves, or at the end of the grace (`cut_at_deadline`). Meanwhile clients that are
   silent before their first request, such as in the TLS handshake, are closed (`end_preparations`).
2. Tasks that their calls have left behind end, in what is left of the grace (`end_left_behind`).
3. So do the tasks that the application has started through the server (`end_background`).
4. The application's lifespan is shut down (`asgi/lifespan.py`).
5. What lifespan and tasks of stage 3 have left behind is ended (`end_last_left_behind`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import enable_ki_protection

from trioasgi.asgi.background import report_left_behind
from trioasgi.nurseries import LAST_MOMENTS, end_left_behind
from trioasgi.server.preparing import close_silent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Protocol

    from trioasgi.asgi.background import Background
    from trioasgi.server.preparing import Preparation
    from trioasgi.server.progress import Progress

    class Abortable(Protocol):
        """The connections of a server."""

        def preparations(self) -> Iterable[Preparation]:
            """Those that are before their protocol."""

        @property
        def are_busy(self) -> bool:
            """Is a call of the application under way?"""

        def abort(self) -> None:
            """Close all connections at once."""


logger = logging.getLogger("trioasgi")


class Drain:
    """Drains a server, whose state is `progress`. `background` has the tasks of the application.

    `shutdown` is how long the shutdown of the lifespan may take, in seconds.
    """

    def __init__(self, progress: Progress, background: Background, *, shutdown: float) -> None:
        self._progress = progress
        self._grace = progress.grace
        self._background = background
        self._shutdown = shutdown

    def begin(self) -> None:
        """Tell the application, whose background tasks have the grace too."""
        self._background.drain(self._grace.limit)

    async def end_preparations(self, connections: Abortable) -> None:
        """Close connections whose clients are silent before the protocol. No request of theirs has begun."""
        await close_silent(connections.preparations)

    async def cut_at_deadline(self, connections: Abortable, cancel: Callable[[], None]) -> None:
        """Wait for the end of the grace, and cut what is still under way: `cancel` the calls."""
        await self._grace.wait_over()
        if connections.are_busy:
            self._progress.has_cut = True
            logger.warning("requests that had not ended %s were cut", self._grace)
        cancel()
        await abort_after_last_moments(connections)

    async def end_left_behind(self) -> None:
        """Wait for tasks that requests have left behind, for the rest of the grace. After the shutdown the
        application's resources are gone.
        """
        await self._end_left_behind(self._grace.wait_over)

    async def end_last_left_behind(self) -> None:
        """As `end_left_behind`, for tasks that the lifespan call and background tasks have left."""
        with trio.CancelScope(shield=True):  # each wait within has a deadline
            await self._end_left_behind(trio.lowlevel.checkpoint)

    async def _end_left_behind(self, wait_over: Callable[[], Awaitable[None]]) -> None:
        if not await end_left_behind(self._progress.nurseries, wait_over, report_left_behind):
            self._progress.has_cut = True

    async def end_background(self) -> None:
        """Let the tasks that the application has started through the server end, in what is left of the
        grace.
        """
        if not self._background.draining.is_set():  # serving has failed, or was cancelled
            self._background.drain(_cancel_now)
        # The nursery of the tasks is cancelled by whatever cancels this; it only has to be waited for.
        deadline = trio.current_time() + self._grace.seconds + self._shutdown
        with trio.CancelScope(shield=True, deadline=deadline):
            if not await self._background.close():
                self._progress.has_cut = True
                logger.warning("tasks of the application that had not ended %s were cancelled", self._grace)


def _cancel_now(scope: trio.CancelScope) -> None:
    # By its deadline, as at the end of the grace: the tasks cannot tell the difference.
    scope.deadline = trio.current_time()


@enable_ki_protection  # a Ctrl-C in its first step would be held back for as long as the rest takes
async def abort_when_cancelled(connections: Abortable, last_moments: trio.CancelScope) -> None:
    """When the server is cancelled, close the connections that a shielded wait keeps from ending: a wait for
    a client that takes nothing, say, ends with its connection. `last_moments` is shielded, and cancelled when
    there are no connections any more.
    """
    try:
        await trio.sleep_forever()
    finally:
        with last_moments:
            await abort_after_last_moments(connections)


async def abort_after_last_moments(connections: Abortable) -> None:
    """Calls have been cancelled. Close the connections of those that go on. What then goes on waits for
    something else, and nothing can end it.
    """
    await trio.sleep(LAST_MOMENTS)
    connections.abort()
    await trio.sleep(LAST_MOMENTS)
    report_shielded(connections)


def report_shielded(connections: Abortable) -> None:
    """Say that calls go on, if there are any, though they were cancelled and their connections are closed."""
    if connections.are_busy:
        logger.error(
            "calls of the application do not end though they were cancelled: they shield what they wait for. "
            "The server cannot end before they do"
        )
