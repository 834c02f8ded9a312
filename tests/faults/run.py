"""One run: a server under load, and what is done to its processes meanwhile."""

from __future__ import annotations

import os
import re
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.processes import ServerProcess, start_server, wait_until

from .clients import HTTPClient, Tally, Target, WebSocketClient

if sys.platform == "win32":
    raise ImportError("signals as Unix has them")

HERE = Path(__file__).resolve().parent
WORKERS = 3
OPTIONS = ("--workers", str(WORKERS), "--no-access-log", "--timeout-worker", "4", "--smoke", "/small")

Action = Callable[["Server"], Awaitable[None]]


@dataclass
class Outcome:
    """What a run has come to."""

    tally: Tally
    status: int
    """The exit status of the server."""
    kills: int
    """Workers that were killed while they served."""
    bound: int
    """The most requests that such a worker can take with it, all together."""
    spans: dict[str, list[tuple[float, float]]]
    """When each action began and ended."""
    log: str

    @property
    def lost_without_reason(self) -> list[str]:
        """What was lost beyond what kills explain."""
        return self.tally.failed if len(self.tally.failed) > self.bound else []

    def percentile(self, share: float, action: str | None = None) -> float:
        """Seconds in which this share of the small requests was answered: all through an action, or while
        nothing was done.
        """
        spans = [span for name, found in self.spans.items() for span in found if action in (None, name)]
        inside = [
            seconds
            for at, seconds in self.tally.seconds
            if any(begin <= at <= end for begin, end in spans) is (action is not None)
        ]
        inside.sort()
        return inside[min(len(inside) - 1, int(share * len(inside)))] if inside else 0.0


class Server:
    """The server of a run, for the actions. It waits in threads for the lines of the log."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.kills = 0

    @property
    def workers(self) -> list[int]:
        """The pids of workers that are ready, and not about to stop."""
        gone = re.findall(
            r"\[(\d+)\] Stopping|Worker (\d+) (?:was ended|ended|has given)", self.process.output.text
        )
        left = {int(number) for pair in gone for number in pair if number}
        return [pid for pid in self.process.worker_pids() if pid not in left]

    async def wait_for(self, pattern: str, after: int) -> None:
        """Wait for a line of the log."""
        await trio.to_thread.run_sync(lambda: self.process.wait_for(pattern, after=after))

    async def wait_ready(self, count: int, after: int) -> None:
        """Wait until so many workers have become ready."""
        await trio.to_thread.run_sync(wait_until, lambda: self._ready_since(after) >= count, "new workers")

    def _ready_since(self, after: int) -> int:
        lines = self.process.output.text.splitlines()[after:]
        return sum(1 for line in lines if re.search(r"Worker \d+ is ready", line))


async def roll(server: Server) -> None:
    """Replace all workers."""
    mark = server.process.output.mark
    server.process.send(signal.SIGHUP)
    await server.wait_for("Rolled: every worker is new|The roll has failed", mark)


async def scale(server: Server) -> None:
    """Add two workers, and remove them."""
    mark = server.process.output.mark
    for number in (signal.SIGTTIN, signal.SIGTTIN):
        server.process.send(number)
        await trio.sleep(0.1)  # two of one signal at once are one
    await server.wait_ready(2, mark)
    for number in (signal.SIGTTOU, signal.SIGTTOU):
        server.process.send(number)
        await trio.sleep(0.1)
    await server.wait_for(rf"Scaling from \d+ to {WORKERS} workers", mark)


async def kill(server: Server) -> None:
    """Kill a worker."""
    mark = server.process.output.mark
    server.kills += 1
    os.kill(server.workers[0], signal.SIGKILL)
    await server.wait_ready(1, mark)


async def stop_and_go(server: Server) -> None:
    """Stop a worker for a while that is shorter than the supervisor's patience."""
    pid = server.workers[0]
    os.kill(pid, signal.SIGSTOP)
    await trio.sleep(1)
    os.kill(pid, signal.SIGCONT)


async def freeze(server: Server) -> None:
    """Stop a worker for good: the supervisor ends it."""
    mark = server.process.output.mark
    server.kills += 1
    os.kill(server.workers[0], signal.SIGSTOP)
    await server.wait_for("has given no sign of life", mark)
    await server.wait_ready(1, mark)


GENTLE: tuple[Action, ...] = (roll, scale, stop_and_go)
"""Actions that may lose nothing."""
HARSH: tuple[Action, ...] = (kill, freeze)
"""Actions that lose what is under way in one worker."""


async def measure(
    directory: Path,
    *,
    requests: int,
    actions: tuple[Action, ...],
    tls: bool,
    clients: int = 4,
    pause: float = 0.0,
) -> Outcome:
    """Run the actions in turn, again and again, until so many requests were answered. Then stop the server
    under load, which must lose nothing either.
    """
    (directory / "app.py").write_bytes((HERE / "app.py").read_bytes())
    options = (*OPTIONS, "--certfile") if tls else OPTIONS
    with start_server("app:app", *options, cwd=directory) as process:
        server = Server(process)
        port = await trio.to_thread.run_sync(process.port)
        context = None
        if tls:
            cafile = (await trio.to_thread.run_sync(process.wait_for, r"CA in (\S+)"))[1]
            context = ssl.create_default_context(cafile=cafile)
        await server.wait_ready(WORKERS, 0)
        tally, over = Tally(), trio.Event()
        target = Target(port, context)
        spans: dict[str, list[tuple[float, float]]] = {}
        async with trio.open_nursery() as nursery:
            count = 0
            for _ in range(clients):
                for path in ("/small", "/slow", "/large"):
                    for anew in (False, True):
                        nursery.start_soon(
                            HTTPClient(target, tally, path, anew=anew, pause=pause).run, over.is_set
                        )
                        count += 1
                nursery.start_soon(WebSocketClient(target, tally, pause=pause).run, over.is_set)
                count += 1
            await trio.sleep(2)  # what it is like while nothing is done
            while True:
                for action in actions:
                    begun = trio.current_time()
                    await action(server)
                    spans.setdefault(action.__name__, []).append((begun, trio.current_time()))
                    await trio.sleep(0.5)
                if tally.total >= requests:
                    break
            over.set()
        process.send(signal.SIGTERM)
        status = await trio.to_thread.run_sync(process.wait)
        return Outcome(tally, status, server.kills, server.kills * count, spans, process.output.text)
