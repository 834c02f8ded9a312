"""One run: a server under load, and what is done to its processes meanwhile."""

from __future__ import annotations

import os
import re
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.client import get
from tests.support.processes import ServerProcess, start_server, wait_until

from .clients import Failure, HTTPClient, Tally, Target, WebSocketClient

if sys.platform == "win32":
    raise ImportError("signals as Unix has them")

HERE = Path(__file__).resolve().parent
WORKERS = 3
MEMORY = 180_000_000
"""Bytes above which a worker is replaced: that of some requests for /eat."""
STEERED: tuple[str, ...] = ("--workers", str(WORKERS), "--smoke", "/small", "--worker-max-rss", str(MEMORY))
RELOADED: tuple[str, ...] = ("--workers", "2", "--reload")
_OPTIONS = ("--no-access-log", "--timeout-worker", "4")
_ENDING = 60.0
"""Seconds in which all clients have had their last answers when the server stops."""
_NEWS = 1.0
"""Seconds within which a client on a busy machine learns that its worker was killed."""

Action = Callable[["Server"], Awaitable[None]]


@dataclass(frozen=True)
class Death:
    """A worker was killed while it served: somewhen in these seconds of `trio.current_time()`."""

    begin: float
    end: float

    def explains(self, failure: Failure) -> bool:
        """May the request have been under way in that worker?"""
        return self.begin <= failure.at <= self.end + _NEWS


@dataclass
class Outcome:
    """What a run has come to."""

    tally: Tally
    status: int
    """The exit status of the server."""
    deaths: list[Death]
    """Of workers that were killed while they served."""
    clients: int
    """So many requests are under way at once, so one death takes no more with it."""
    spans: dict[str, list[tuple[float, float]]]
    """When each action began and ended."""
    log: str

    @property
    def lost_without_reason(self) -> list[Failure]:
        """What was lost though no worker was killed then, or more than can have been under way in it."""
        left = list(self.tally.failed)
        for death in self.deaths:
            explained = [failure for failure in left if death.explains(failure)][: self.clients]
            left = [failure for failure in left if failure not in explained]
        return left

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

    def __init__(self, process: ServerProcess, directory: Path) -> None:
        self.process = process
        self.deaths: list[Death] = []
        self._directory = directory
        self._saves = 0

    @property
    def workers(self) -> list[int]:
        """The pids of workers that are ready, and not about to stop."""
        gone = re.findall(
            r"\[(\d+)\] Stopping|Worker (\d+) (?:was ended|ended|has given)", self.process.output.text
        )
        left = {int(number) for pair in gone for number in pair if number}
        return [pid for pid in self.process.worker_pids() if pid not in left]

    def save(self) -> None:
        """Save another version of the application, as an editor does."""
        self._saves += 1
        new = self._directory / ".app.py.new"
        new.write_bytes((HERE / "app.py").read_bytes() + b"\n# version %d\n" % self._saves)
        new.replace(self._directory / "app.py")

    async def ask(self, path: str) -> None:
        """Send a request, as a client of its own."""
        url, found = self.process.url(), re.search(r"CA in (\S+)", self.process.output.text)
        cafile = None if found is None else found[1]
        answer = await trio.to_thread.run_sync(
            lambda: get(url.replace("127.0.0.1", "localhost"), path, cafile=cafile)
        )
        assert answer.status == 200

    async def wait_for(self, pattern: str, after: int) -> None:
        """Wait for a line of the log."""
        await trio.to_thread.run_sync(lambda: self.process.wait_for(pattern, after=after))

    async def wait_ready(self, count: int, after: int) -> None:
        """Wait until so many workers have become ready."""
        await trio.to_thread.run_sync(wait_until, lambda: self._ready_since(after) >= count, "new workers")

    def _ready_since(self, after: int) -> int:
        return len(re.findall(r"Worker \d+ is ready", self.log_since(after)))

    def log_since(self, mark: int) -> str:
        """The lines of the log from this one on."""
        return "\n".join(self.process.output.text.split("\n")[mark:])


async def roll(server: Server) -> None:
    """Replace all workers."""
    mark = server.process.output.mark
    server.process.send(signal.SIGHUP)
    await server.wait_for("Rolled: every worker is new|The roll has failed", mark)


async def scale(server: Server) -> None:
    """Add two workers, and remove them."""
    mark = server.process.output.mark
    for count in (WORKERS + 1, WORKERS + 2):  # one after the other: two of one signal at once are one
        server.process.send(signal.SIGTTIN)
        await server.wait_for(rf"Scaling from \d+ to {count} workers", mark)
    await server.wait_ready(2, mark)
    mark = server.process.output.mark
    for count in (WORKERS + 1, WORKERS):
        server.process.send(signal.SIGTTOU)
        await server.wait_for(rf"Scaling from \d+ to {count} workers", mark)


async def reload(server: Server) -> None:
    """Save the application, under `--reload`."""
    mark = server.process.output.mark
    server.save()
    await server.wait_for("Reloading: app.py changed", mark)
    await server.wait_ready(2, mark)


async def eat(server: Server) -> None:
    """Let workers occupy memory until one of them is replaced for it."""
    mark = server.process.output.mark
    while not re.search(r"is due.*--worker-max-rss", server.log_since(mark)):
        await server.ask("/eat")
        await trio.sleep(0.2)  # it reports its memory each second
    await server.wait_ready(1, mark)


async def kill(server: Server) -> None:
    """Kill a worker."""
    mark, begun = server.process.output.mark, trio.current_time()
    pid = server.workers[0]
    os.kill(pid, signal.SIGKILL)
    await server.wait_for(rf"Worker {pid} was ended by SIGKILL", mark)
    server.deaths.append(Death(begun, trio.current_time()))
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
    pid = server.workers[0]
    os.kill(pid, signal.SIGSTOP)
    await server.wait_for(rf"Worker {pid} has given no sign of life", mark)
    begun = trio.current_time()
    await server.wait_for(rf"Worker {pid} was ended by SIG", mark)
    server.deaths.append(Death(begun, trio.current_time()))
    await server.wait_ready(1, mark)


GENTLE: tuple[Action, ...] = (roll, scale, eat, stop_and_go)
"""Actions that may lose nothing."""
HARSH: tuple[Action, ...] = (kill, freeze)
"""Actions that lose what is under way in one worker."""


async def measure(
    directory: Path,
    *,
    requests: int,
    actions: tuple[Action, ...],
    tls: bool,
    options: tuple[str, ...] = STEERED,
    clients: int = 4,
    pause: float = 0.0,
    calm: float = 2.0,
) -> Outcome:
    """Run the actions in turn, again and again, until so many requests were answered. Then stop the server
    under load, which must lose nothing either. For the first `calm` seconds nothing is done.
    """
    (directory / "app.py").write_bytes((HERE / "app.py").read_bytes())
    options = (*_OPTIONS, *options, *(("--certfile",) if tls else ()))
    with start_server("app:app", *options, cwd=directory) as process:
        server = Server(process, directory)
        target = await trio.to_thread.run_sync(_target, process, tls)
        await server.wait_ready(2, 0)
        tally = Tally()
        spans: dict[str, list[tuple[float, float]]] = {}
        async with trio.open_nursery() as nursery:
            crowd = _crowd(target, tally, clients, pause)
            for client in crowd:
                nursery.start_soon(client.run)
            await trio.sleep(calm)
            while tally.total < requests or not spans:
                for action in actions:
                    begun = trio.current_time()
                    await action(server)
                    spans.setdefault(action.__name__, []).append((begun, trio.current_time()))
                    await trio.sleep(0.5)
            tally.is_stopping = True
            process.send(signal.SIGTERM)
            nursery.cancel_scope.deadline = trio.current_time() + _ENDING
        if nursery.cancel_scope.cancelled_caught:
            tally.fail(f"clients had no last answer within {_ENDING:g} s")
        status = await trio.to_thread.run_sync(process.wait)
        return Outcome(tally, status, server.deaths, len(crowd), spans, process.output.text)


def _target(process: ServerProcess, tls: bool) -> Target:
    port = process.port()
    if not tls:
        return Target(port)
    return Target(port, ssl.create_default_context(cafile=process.wait_for(r"CA in (\S+)")[1]))


def _crowd(
    target: Target, tally: Tally, clients: int, pause: float
) -> Sequence[HTTPClient | WebSocketClient]:
    """So many clients of each kind."""
    crowd: list[HTTPClient | WebSocketClient] = []
    for _ in range(clients):
        for path in ("/small", "/slow", "/large"):
            crowd += [HTTPClient(target, tally, path, anew=anew, pause=pause) for anew in (False, True)]
        crowd.append(WebSocketClient(target, tally, pause=pause))
    return crowd
