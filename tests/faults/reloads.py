"""What many reloads leave behind in the processes: zombies, descriptors, threads, memory, counted in Linux's
/proc.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.client import get
from tests.support.processes import ServerProcess, children, is_alive, start_server, wait_until

if sys.platform == "win32":
    raise ImportError("signals as Unix has them")

SETTLING = 10
"""Reloads after which the first sample is taken: until then, the supervisor still imports what it needs."""
MEMORY_NOISE = 512 << 10
"""Bytes by which the memory of one process may differ between two looks at it, though nothing is kept."""
IDLE_THREADS = 3
"""Trio keeps threads for some seconds after their work."""

_APP = """
async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"{number}"}})
"""
_DRAINED = 10.0
"""Seconds in which the replaced workers have gone."""

Reload = Callable[[ServerProcess, Path, int], None]


@dataclass(frozen=True)
class Sample:
    """The processes at one moment, at which only those are left that should be."""

    descriptors: int
    """Open descriptors of the supervisor."""
    threads: int
    """Threads of the supervisor."""
    memory: int
    """Bytes of memory of the supervisor that no other process shares, and no file holds."""
    inherited: int
    """Open descriptors of all its children."""
    names: int
    """Files in the working directory."""


@dataclass(frozen=True)
class Remains:
    """What so many reloads have left behind."""

    reloads: int
    seconds: float
    first: Sample
    """When the supervisor had settled."""
    last: Sample
    """After all."""
    status: int
    """The exit status of the server."""
    log: str

    @property
    def memory_growth(self) -> int:
        """Bytes by which the supervisor has grown."""
        return self.last.memory - self.first.memory

    @property
    def leaks(self) -> list[str]:
        """What has grown, for people. Zombies and workers too many prevent a sample, and raise before."""
        found = []
        for name in ("descriptors", "inherited", "names"):
            before, after = getattr(self.first, name), getattr(self.last, name)
            if after > before:
                found.append(f"{name}: {before} before, {after} after")
        if self.last.threads > self.first.threads + IDLE_THREADS:
            found.append(f"threads: {self.first.threads} before, {self.last.threads} after")
        if self.memory_growth > MEMORY_NOISE:
            found.append(f"memory: {self.memory_growth} bytes more")
        return found


def save(server: ServerProcess, directory: Path, number: int) -> None:
    """Save the application, under `--reload`, and wait until it is served."""
    _write(directory, number)
    url = server.url()
    wait_until(lambda: get(url).body == str(number), f"answer {number}", step=0.01)


def roll(server: ServerProcess, directory: Path, number: int) -> None:
    """Save the application, replace all workers, and wait until that is done."""
    _write(directory, number)
    mark = server.output.mark
    server.send(signal.SIGHUP)
    server.wait_for("Rolled: every worker is new", after=mark)
    assert get(server.url()).body == str(number)


def measure(
    directory: Path, reload: Reload, *options: str, reloads: int, processes: int, settling: int = SETTLING
) -> Remains:
    """Start a server with these options, reload it so many times, and say what is left. `processes` is the
    number of the supervisor's children while nothing happens. AssertionError if there are others then.
    """
    assert reloads > settling
    _write(directory, 0)
    with start_server("app:app", *options, "--no-access-log", cwd=directory) as server:
        assert get(server.url()).body == "0"
        begun = time.monotonic()
        first = None
        for number in range(1, reloads + 1):
            reload(server, directory, number)
            if number == settling:
                first = _sample(server.pid, directory, processes)
        seconds = time.monotonic() - begun
        last = _sample(server.pid, directory, processes)
        assert first is not None
        return Remains(reloads, seconds, first, last, server.stop(), server.output.text)


def _write(directory: Path, number: int) -> None:
    new = directory / ".app.py.new"
    # Each version has another size: Python's compiled code is told from that of another by size and second.
    new.write_text(_APP.format(number=number) + "#" * number)
    new.replace(directory / "app.py")


def _sample(pid: int, directory: Path, processes: int) -> Sample:
    """Wait until all replaced workers have gone and new ones are whole, and look."""
    quiet_since = time.monotonic()

    def is_quiet() -> bool:
        nonlocal quiet_since
        if len(children(pid)) != processes or not all(map(is_alive, children(pid))):
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > 1.5  # a standby has imported what it needs

    wait_until(is_quiet, f"{processes} processes: {children(pid)}", patience=_DRAINED + 10)
    status = _status(pid)
    return Sample(
        descriptors=_descriptors(pid),
        threads=int(status["Threads"]),
        memory=int(status["RssAnon"].split()[0]) << 10,
        inherited=sum(map(_descriptors, children(pid))),
        names=len(list(directory.iterdir())),
    )


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
