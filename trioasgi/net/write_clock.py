"""One clock for all streams off the hub that wait for their peers to take what is sent.

A cancel scope with a deadline for each send would not do. A peer that takes bytes slowly has time as long as
it takes some, but the send of a Trio stream does not tell of a part. And when the loop itself is late, the
deadline has passed before the send can go on, however fast the peer is. A send that is cancelled cannot be
mended: it has sent any part of its bytes, and TLS cannot go on behind that.

So the clock counts its own ticks. Time for which the loop was blocked is none of them.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from trioasgi.net.ticker import TICK


class Writer(Protocol):
    """Waits for its peer, from `WriteClock.add` to `discard`."""

    def note_tick(self, seconds: float) -> None:
        """So many seconds have passed. It must not raise anything: that would end the run."""


class WriteClock:
    """Ticks while a writer waits. Its task is one of the system's, and ends a tick after the last wait."""

    __slots__ = ("_writers", "is_ticking")

    def __init__(self) -> None:
        self._writers: set[Writer] = set()
        self.is_ticking = False

    def add(self, writer: Writer) -> None:
        """Begin to tick for `writer`."""
        self._writers.add(writer)
        if not self.is_ticking:
            self.is_ticking = True
            trio.lowlevel.spawn_system_task(self._tick)

    def discard(self, writer: Writer) -> None:
        """Stop ticking for `writer`."""
        self._writers.discard(writer)

    async def _tick(self) -> None:
        # It sleeps first: most waits are over by then, and need no task of their own.
        while self.is_ticking:
            await trio.sleep(TICK)
            for writer in tuple(self._writers):
                writer.note_tick(TICK)
            self.is_ticking = bool(self._writers)


_clock: Final[trio.lowlevel.RunVar[WriteClock]] = trio.lowlevel.RunVar("_clock")


def write_clock() -> WriteClock:
    """The clock of this run."""
    try:
        return _clock.get()
    except LookupError:
        clock = WriteClock()
        _clock.set(clock)
        return clock
