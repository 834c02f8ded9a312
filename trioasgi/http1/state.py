"""What an HTTP/1 connection shares with the exchange that is under way on it.

Both import this module, so they need not import each other. Its fields are plain attributes, because each is
read several times for a request.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING

from trioasgi.http1.reader import RequestReader
from trioasgi.http1.settings import GivesUp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    import trio

    from trioasgi.http.exchange import Exchange
    from trioasgi.http1.settings import HTTP1Settings
    from trioasgi.net.channel import Channel
    from trioasgi.net.connection_info import ConnectionInfo

    StartTask: TypeAlias = Callable[[Callable[[], Awaitable[None]], str], None]

logger = logging.getLogger("trioasgi")


class ConnectionState:
    """A connection, as its exchanges see it.

    `start_task` starts a task that belongs to this connection, of the peer that it is given, and ends with
    it. If the task fails, that is logged.
    """

    __slots__ = (
        "_looks_ahead",
        "_on_drain",
        "attends",
        "channel",
        "draining",
        "flushing",
        "heads",
        "info",
        "lends_scope",
        "reader",
        "scope",
        "sets_deadlines",
        "settings",
        "start_task",
    )

    def __init__(
        self,
        channel: Channel,
        info: ConnectionInfo,
        settings: HTTP1Settings,
        start_task: StartTask,
    ) -> None:
        self.channel = channel
        self.info = info
        self.settings = settings
        self.heads = settings.heads
        self.start_task = start_task
        self.reader = RequestReader(settings.codec, settings.limits, info.scheme)
        self.draining = False
        self.scope: trio.CancelScope
        """The cancel scope of the task that serves the connection now."""
        self.sets_deadlines = settings.request_timeout > 0 or settings.gives_up is GivesUp.ALWAYS
        """Can `scope` get a deadline or be cancelled, so that it must be checked after each call?"""
        self.lends_scope = False
        """Has a call asked for `scope`? It may keep it, so the next call needs another one."""
        self.flushing = 0
        """How many tasks wait until the client takes what they send."""
        self.attends = settings.gives_up is not GivesUp.NEVER and not channel.tells_of_hang_up
        """Must `attend` be called whenever a piece of a response leaves?"""
        self._on_drain: Callable[[], None] | None = None
        self._looks_ahead = False  # does a task read for the application's next look?

    @property
    @abstractmethod
    def exchange_under_way(self) -> Exchange | None:
        """The exchange that is being answered; None if there is none."""

    @property
    @abstractmethod
    def call_under_way(self) -> Exchange | None:
        """The exchange for which the application is called now; None if there is no call."""

    @abstractmethod
    def attend(self) -> None:
        """A piece of a response has left. The client may have gone."""

    @abstractmethod
    def note_lost(self) -> None:
        """The response is about to fail, as the connection is broken. The hub does not tell of that once this
        side has closed it.
        """

    @abstractmethod
    def response_over(self) -> None:
        """The response is complete, or lost. The application has no deadline any more."""

    def look_ahead(self) -> None:
        """The application has looked for what has arrived, and has not waited. Where only a read can tell,
        start a task that reads: the next look finds what has come.
        """
        if self._looks_ahead or self.channel.tells_of_hang_up:
            return
        self._looks_ahead = True
        self.start_task(self._read_ahead, self.info.peer)

    async def _read_ahead(self) -> None:
        try:
            await self.channel.read_ahead()
        finally:
            self._looks_ahead = False

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the server drains; now if it drains already. The last call replaces those
        before.
        """
        self._on_drain = callback
        if self.draining:
            callback()

    def log_limit(self, reason: str) -> None:
        """Log why the server ends the connection."""
        logger.info("%s: %s", self.info.peer, reason)
