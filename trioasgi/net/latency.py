"""How late the loop of a worker is, and when it is too late to take on new work.

One task sleeps, and looks how late it wakes. A task that becomes ready while a round of Trio's scheduler goes
on waits for the rest of that round, and then for those before it in the next one. So a timer is late by about
the length of a round, and so is the first step of a request that arrives. That is what the latency shows: how
long whatever needs the loop waits for it. It does not show a wait for anything else, a thread or a database.

All requests that arrive in one round begin in the next one. With more of them than the loop can serve, each
round is longer than the one before. Too late is therefore no reason to take on nothing: the loop would run
idle until the latency has fallen. A late loop takes on what it has time for: in each round it begins requests
until half the limit is over, but at least one, and turns the others away. So a round takes about half the
limit, a request waits for about the limit at most, and the loop is never without work.
"""

from __future__ import annotations

import logging
import math
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("trioasgi")

PERIOD: Final = 0.02
"""Seconds that the task sleeps between two measurements."""

SMOOTHING: Final = 0.1
"""Seconds after which a measurement has lost two thirds of its weight."""

HIGHEST: Final = 4.0
"""A measurement counts as so many times the limit at most. Otherwise a single pause would count for long."""

BEGIN_AFTER: Final = 0.25
"""Seconds above the limit after which the loop is late. A pause alone does not make it so."""

END_BELOW: Final = 0.25
"""A late loop is in time again below this part of the limit: while it turns requests away it is at half."""

END_AFTER: Final = 1.0
"""Seconds below that part after which it is in time again."""


class Load(Enum):
    """How late the loop is."""

    IN_TIME = "its latency is within the limit"
    RISING = "above the limit, for less than BEGIN_AFTER"
    LATE = "above the limit for so long: requests are turned away"
    FALLING = "still late, and below END_BELOW for less than END_AFTER"


TRANSITIONS: Final[Mapping[Load, Mapping[Load, str]]] = {
    Load.IN_TIME: {Load.RISING: "above the limit"},
    Load.RISING: {Load.IN_TIME: "not above it any more", Load.LATE: "above it for 0.25 s"},
    Load.LATE: {Load.FALLING: "below a quarter of the limit"},
    Load.FALLING: {Load.LATE: "not below it any more", Load.IN_TIME: "below it for 1 s"},
}

_SINCE_TURN: Final = (Load.RISING, Load.FALLING)
_TOO_LATE: Final = (Load.LATE, Load.FALLING)


class LoopLatency:
    """Measures the latency of the loop, and decides which requests a late loop turns away.

    `limit` is in seconds. `watch()` must be running in the same Trio run. `turned_away` counts the requests
    since the loop has become late; the caller adds to it.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.latency = 0.0
        """The smoothed latency, in seconds."""
        self.load = Load.IN_TIME
        self.turned_away = 0
        self._turned_at = math.inf  # when the load began to rise, or to fall
        self._late_since = math.inf
        self._worst = 0.0  # the latest timer since the latency has begun to rise
        self._rounds = _Rounds()

    @property
    def is_late(self) -> bool:
        """Are requests turned away now?"""
        return self.load in _TOO_LATE

    def has_time(self) -> bool:
        """Is there time for another request in this round? For the first one there always is."""
        if self.load not in _TOO_LATE:
            return True
        return self._rounds.take_first() or self._rounds.elapsed() < self.limit / 2

    @enable_ki_protection  # the instrument that it adds must be removed
    async def watch(self) -> None:
        """Measure until cancelled."""
        now = trio.current_time()
        try:
            while True:
                before = now
                await trio.sleep(PERIOD)
                now = trio.current_time()
                self.note(now - before - PERIOD, now - before, now)
        finally:
            if self.is_late:
                self._end(trio.current_time())

    def note(self, late: float, elapsed: float, now: float) -> None:
        """Note that a timer was late by so many seconds, `elapsed` seconds after the last measurement."""
        weight = 1 - math.exp(-elapsed / SMOOTHING)
        self.latency += (min(late, HIGHEST * self.limit) - self.latency) * weight
        self._worst = late if self.load is Load.IN_TIME else max(self._worst, late)
        match self.load:
            case Load.IN_TIME if self.latency > self.limit:
                self._turn(Load.RISING, now)
            case Load.RISING if self.latency <= self.limit:
                self._enter(Load.IN_TIME)
            case Load.RISING if now - self._turned_at >= BEGIN_AFTER:
                self._begin(now)
            case Load.LATE if self.latency < END_BELOW * self.limit:
                self._turn(Load.FALLING, now)
            case Load.FALLING if self.latency >= END_BELOW * self.limit:
                self._enter(Load.LATE)
            case Load.FALLING if now - self._turned_at >= END_AFTER:
                self._end(now)
                self._enter(Load.IN_TIME)

    def _enter(self, load: Load) -> None:
        assert load in TRANSITIONS[self.load], (self.load, load)
        self.load = load

    def _turn(self, load: Load, now: float) -> None:
        self._enter(load)
        self._turned_at = now

    def _begin(self, now: float) -> None:
        self._enter(Load.LATE)
        self._late_since, self.turned_away = now, 0
        self._rounds.begin()
        logger.warning(
            "the loop is up to %.0f ms late: requests that it has no time for are answered 503 "
            "(--shed-latency %g)",
            self._worst * 1000,
            self.limit,
        )

    def _end(self, now: float) -> None:
        self._rounds.end()
        logger.warning(
            "the loop was late for %.1f s, and %d requests were answered 503 (--shed-latency %g)",
            now - self._late_since,
            self.turned_away,
            self.limit,
        )


class _Rounds(trio.abc.Instrument):
    """Knows when this round of the scheduler has begun, between `begin()` and `end()`."""

    def __init__(self) -> None:
        self._began = -math.inf
        self._is_new = True
        self._now = trio.current_time

    def begin(self) -> None:
        """Count from this round on."""
        self._now = trio.lowlevel.current_clock().current_time
        self._began = self._now()
        trio.lowlevel.add_instrument(self)

    def end(self) -> None:
        """Count no more."""
        trio.lowlevel.remove_instrument(self)

    def elapsed(self) -> float:
        """Seconds since the round has begun."""
        return self._now() - self._began

    def take_first(self) -> bool:
        """Is this the first time that it is called in this round? If the process has to wait for a processor,
        a round may seem to be over before it has begun.
        """
        is_new, self._is_new = self._is_new, False
        return is_new

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is trio's
        """Note that a round begins: Trio has asked for events, and runs what is ready."""
        self._began = self._now()
        self._is_new = True
