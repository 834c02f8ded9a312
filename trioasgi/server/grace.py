"""The grace: the time that requests have to finish once the server drains."""

from __future__ import annotations

import math
from collections.abc import Mapping

import trio


class Grace:
    """Ends `seconds` after the drain has begun, unless another time is set for it. `options` has the names of
    options, by their seconds.

    Later calls can only shorten it: whoever asks for a faster end gets it.
    """

    def __init__(self, seconds: float, options: Mapping[float, str]) -> None:
        self.seconds = seconds
        """How long it takes, from the call that has set it."""
        self.deadline = -math.inf
        """When it ends, in seconds of `trio.current_time()`. It is over before it has begun: a server that is
        cancelled has none.
        """
        self._given = seconds
        self._options = options
        self._scopes: list[trio.CancelScope] = []

    def begin(self, seconds: float | None) -> None:
        """Let it begin now, and take `seconds`. None: those that it was made with."""
        if seconds is not None:
            self.seconds = seconds
        self.deadline = trio.current_time() + self.seconds

    def shorten(self, seconds: float) -> None:
        """Let it end `seconds` from now, unless it ends earlier."""
        deadline = trio.current_time() + seconds
        if deadline >= self.deadline:
            return
        self.deadline = deadline
        self.seconds = seconds
        for scope in self._scopes:
            scope.deadline = deadline

    def limit(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` at the end."""
        scope.deadline = self.deadline
        self._scopes.append(scope)

    async def wait_over(self) -> None:
        """Wait for the end."""
        with trio.CancelScope() as scope:
            self.limit(scope)
            await trio.sleep_forever()

    def __str__(self) -> str:
        """What a log line says of it, behind `had not ended`."""
        if not self.seconds and self._given:
            return "when the server was told to end at once"
        origin = self._options.get(self.seconds, "the grace that was set for this stop")
        return f"{round(self.seconds, 3):g} seconds after the server was told to stop ({origin})"
