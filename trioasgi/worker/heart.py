"""A worker's heartbeats: the loop itself sends them, with how late it was and what it has to do."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from trioasgi.supervisor.messages import Heartbeat, heartbeat_interval

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.process.lifecycle import Lifecycle
    from trioasgi.worker.reports import Reports

_STATM = "/proc/self/statm"


def heartbeats(reports: Reports, config: Config, lifecycle: Lifecycle) -> Callable[[], Awaitable[None]]:
    """A function that reports a heartbeat from time to time, until cancelled."""
    interval = heartbeat_interval(config.timeout_worker)
    on_sigint = signal.getsignal(signal.SIGINT)

    async def send_heartbeats() -> None:
        expected = trio.current_time()
        while True:
            lag = max(0.0, trio.current_time() - expected)
            connections, calls, requests = lifecycle.counts
            reports.send(Heartbeat(round(lag, 4), resident_memory(), connections, calls, requests))
            if signal.getsignal(signal.SIGINT) is not on_sigint:
                # pdb leaves a handler that would open a prompt at Ctrl-C in the middle of the loop.
                signal.signal(signal.SIGINT, on_sigint)
            expected = trio.current_time() + interval
            await trio.sleep_until(expected)

    return send_heartbeats


def resident_memory() -> int:
    """Bytes of memory that this process occupies now (proc(5), statm); 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    try:
        with open(_STATM, "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0  # no /proc, or no descriptor is free
