"""What the process table says of a server: its descendants, their CPU time, their memory. Linux only."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path


def family(pid: int) -> set[int]:
    """Return the process and all its living descendants."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone in between
                # The name in parentheses may itself hold spaces and parentheses. proc_pid_stat(5): field 4.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process and its living descendants have used so far.

    From each process's CPU-time clock: the sum over its threads, also those that have ended, and finer than
    the hundredths of a second in /proc.
    """
    if sys.platform == "win32":
        raise NotImplementedError("processes have no CPU-time clock here")
    total = 0.0
    for member in family(pid):
        with contextlib.suppress(OSError):  # gone in between
            total += time.clock_gettime((~member << 3) | _CPUCLOCK_SCHED)  # as clock_getcpuclockid(3) does
    return total


_CPUCLOCK_SCHED = 2


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process and its living descendants. What they share counts for each."""
    if sys.platform == "win32":
        raise NotImplementedError("there is no /proc")
    pages = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{member}/statm").read_text().split()[1])  # proc_pid_statm(5): resident
    return pages * os.sysconf("SC_PAGE_SIZE")
