"""When a session pings its peer, and when it has waited long enough for the answer."""

from __future__ import annotations

import math
from enum import Enum, auto


class PingEvent(Enum):
    """What is due."""

    NOTHING = auto()
    PING = auto()
    NO_PONG = auto()


class PingSchedule:
    """Pings `interval` seconds after the last pong (0: never), each answered within `timeout` (0: whenever).

    Any pong answers: what matters is that the peer lives.
    """

    __slots__ = ("_interval", "_ping_at", "_pong_by", "_timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._pong_by = math.inf
        self._ping_at = math.inf
        self.note_pong(now)

    def due(self, now: float) -> PingEvent:
        """What is due; a ping is taken to be sent then."""
        if now >= self._ping_at:
            if self._timeout:
                self._ping_at = math.inf
                self._pong_by = now + self._timeout
            else:
                self._ping_at = now + self._interval
            return PingEvent.PING
        return PingEvent.NO_PONG if now >= self._pong_by else PingEvent.NOTHING

    def note_pong(self, now: float) -> None:
        """A pong has come."""
        self._pong_by = math.inf
        if self._interval:
            self._ping_at = now + self._interval

    def wait_on(self, now: float) -> None:
        """Begin the wait for a pong again."""
        self._pong_by = now + self._timeout
