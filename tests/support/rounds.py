"""How often a Trio run wakes, on a clock that jumps.

The clock jumps to the next deadline of the whole run as soon as every task waits. So a task that ticks makes
itself known by the number of rounds, and one that hangs takes no time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.sockets import served
from trioasgi import Server
from trioasgi.types import ASGIApp

HOUR = 3600.0


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the scheduler."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def rounds_of(seconds: float) -> int:
    """Rounds of the scheduler within so many seconds, in which the caller sleeps."""
    await wait_all_tasks_blocked()
    rounds = Rounds()
    trio.lowlevel.add_instrument(rounds)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(rounds)
    return rounds.count


@asynccontextmanager
async def on_unix_socket(directory: Path, app: ASGIApp, **options: Any) -> AsyncIterator[Server]:
    """A server on a Unix socket, which delivers at once: a clock that jumps passes nothing by."""
    defaults = {"uds": str(directory / "socket"), "lifespan": "off"}
    async with served(app, **{**defaults, **options}) as server:
        yield server
