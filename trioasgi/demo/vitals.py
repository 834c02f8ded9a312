"""The demo's own process: counters of this run, and its memory."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Life:
    """Counters of one run of the application, from lifespan startup to its end.

    One object for the whole run: lifespan puts it into `state`, of which every request gets a shallow copy.
    """

    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""
    requests: int = 0
    """Requests seen since then."""
    streams: int = 0
    """Event streams open now."""

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return time.time() - self.started


if sys.platform == "linux":

    def memory_in_use() -> int | None:
        """Bytes of memory this process holds (its resident set), or None where nothing tells."""
        try:
            resident_pages = Path("/proc/self/statm").read_bytes().split()[1]
        except OSError:
            return None
        return int(resident_pages) * os.sysconf("SC_PAGE_SIZE")

else:

    def memory_in_use() -> int | None:
        """Bytes of memory this process holds (its resident set), or None where nothing tells."""
        return None
