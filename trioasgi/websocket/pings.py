"""When to ping the peer of a session, and when the pong is late."""

from __future__ import annotations

import math
from enum import Enum, auto


class PingEvent(Enum):
    """What is due."""

    NOTHING = auto()
    PING = auto()
    NO_PONG = auto()


class PingSchedule:
    """A ping is due `interval` seconds after the last pong (0: never). Its pong must come within `timeout`
    seconds (0: no limit). Any pong counts, whatever its payload.
    """

    __slots__ = ("_interval", "_ping_at", "_pong_by", "_timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pong_by = math.inf
        self._ping_at = math.inf
        self.note_pong(now)

    def due(self, now: float) -> PingEvent:
        """What is due at `now`. The caller sends the ping, if one is. NO_PONG lasts until the pong comes."""
        if now >= self._ping_at:
            if self._timeout:
                self._ping_at = math.inf
                self._pong_by = now + self._timeout
            else:
                self._ping_at = now + self._interval
            return PingEvent.PING
        return PingEvent.NO_PONG if now >= self._pong_by else PingEvent.NOTHING

    @property
    def next(self) -> float:
        """When something will be due next; in the past while a pong is late."""
        return min(self._ping_at, self._pong_by)

    def extend(self, now: float) -> None:
        """The pong that is late may still be on its way: give it as much time again."""
        self._pong_by = now + self._timeout

    def note_pong(self, now: float) -> None:
        """A pong has come."""
        self._pong_by = math.inf
        if self._interval:
            self._ping_at = now + self._interval
