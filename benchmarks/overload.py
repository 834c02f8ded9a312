"""More requests than a server can serve: what it serves of them, and how late.

    python -m benchmarks.overload [--rounds N] [--seconds S] [--times T] [CASE ...]

For each case two servers run, one with limits and one without. In each round three loads follow each other:

- one connection on the server without limits, for how long a request takes alone;
- 16 connections on it, for how many requests it serves in a second (the capacity), before and after the next;
- T times the capacity on the server with limits. These clients do not wait for answers before they send (an
  open loop), as the clients of a real server do not. A latency counts from the moment when the request was
  due. No more than `open_loop.MOST_CONNECTIONS` are open at once.

The medians over the rounds are printed. The share of the capacity is also told by the processor time of the
server, which depends less on what else the machine does. At the end the server without limits gets the same
load.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import trio

from .open_loop import Clients, Result, poisson

ROOT = Path(__file__).resolve().parent.parent

WARM_UP = 2.0
"""Seconds at the beginning of an overload that are not counted: shedding begins within them."""
START = 20.0
STOP = 15.0

Application = Callable[[dict[str, Any], Any, Any], Any]

# The applications


def burn(seconds: float) -> None:
    """Use so much of the processor."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def respond(send: Any) -> None:
    """Answer 200."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, world!"})


async def burning(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Compute for 5 ms."""
    burn(0.005)
    await respond(send)


async def mixed(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Compute, wait as for a database, and compute again."""
    burn(0.002)
    await trio.sleep(0.02)
    burn(0.003)
    await respond(send)


@functools.cache
def pool() -> trio.CapacityLimiter:
    """The connections to a database, say."""
    return trio.CapacityLimiter(10)


async def waiting(_scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Wait for 50 ms with one of ten connections of a pool."""
    async with pool():
        await trio.sleep(0.05)
    await respond(send)


@dataclass(frozen=True)
class Case:
    """What is measured: an application, the options that limit it, and how its clients connect."""

    name: str
    app: str
    limits: tuple[str, ...]
    keeps: bool = True
    """Do clients use connections again? If not, each request has one of its own."""


CASES = (
    Case("computing", "burning", ("--shed-latency", "0.01")),
    Case("computing, new connections", "burning", ("--shed-latency", "0.01"), keeps=False),
    Case("computing and waiting", "mixed", ("--shed-latency", "0.01")),
    Case("waiting", "waiting", ("--limit-concurrency", "20")),
    Case("waiting, new connections", "waiting", ("--limit-concurrency", "20"), keeps=False),
)

# The server


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int

    def processor_time(self) -> float:
        """Seconds that it has used of a processor."""
        if sys.platform == "win32":
            raise RuntimeError("there is no /proc")
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rest(self) -> None:
        """Wait until it has nothing to do any more: it may be busy with what nobody waits for."""
        deadline, before = time.monotonic() + STOP, -1.0
        while time.monotonic() < deadline and (used := self.processor_time()) - before > 0.02:
            before = used
            time.sleep(0.3)


@contextlib.contextmanager
def running(app: str, options: tuple[str, ...]) -> Iterator[Server]:
    """A server of `app` until the end of the block. What it says of its limits is printed then."""
    command = [sys.executable, "-m", "trioasgi", f"benchmarks.overload:{app}", "--port", "0", *options]
    command += ["--lifespan", "off", "--timeout-graceful-shutdown", "1", "--timeout-keep-alive", "60"]
    with tempfile.NamedTemporaryFile() as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
        )
        try:
            yield Server(process, _port(process, output))
            for line in _read(output).decode().splitlines():
                if "(--" in line and "WARNING" in line:
                    print(f"    {line.partition('WARNING')[2].strip()}")
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], output: IO[bytes]) -> int:
    """Wait until it serves. Raises RuntimeError."""
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        found = re.search(rb"Serving on http://127.0.0.1:(\d+)", _read(output))
        if found:
            return int(found[1])
        time.sleep(0.02)
    raise RuntimeError(_read(output).decode())


def _read(output: IO[bytes]) -> bytes:
    # Not by seek(): the server writes where this file is.
    return Path(output.name).read_bytes()


@contextlib.contextmanager
def clients(server: Server, case: Case) -> Iterator[Clients]:
    """Clients of the server; closed at the end."""
    made = Clients(server.port, server.processor_time, keeps=case.keeps)
    try:
        yield made
    finally:
        made.close()
        server.rest()


def keep_busy(server: Server, case: Case, connections: int, seconds: float) -> Result:
    """Keep so many connections busy."""
    with clients(server, case) as load:
        return load.one_after_the_other(connections, seconds)


def overload(server: Server, case: Case, rate: float, seconds: float) -> Result:
    """Send so many requests a second."""
    with clients(server, case) as load:
        now = time.perf_counter() + 0.05
        return load.run(poisson(rate, now), now + WARM_UP, now + WARM_UP + seconds)


@dataclass
class Round:
    """What was measured in a round."""

    alone: Result
    before: Result
    over: Result
    after: Result

    @property
    def capacity(self) -> float:
        """Requests served in a second."""
        return (self.before.rate + self.after.rate) / 2

    @property
    def share(self) -> float:
        """The part of the capacity that is served."""
        return self.over.rate / self.capacity

    @property
    def share_of_work(self) -> float:
        """The same, by the processor time."""
        return 2 * self.over.work / (self.before.work + self.after.work)

    @property
    def slower(self) -> float:
        """How many times the latency of one alone is the latency of those that are served (99 of 100)."""
        return self.over.quantile(0.99) / self.alone.quantile(0.99)


def one_round(free: Server, limited: Server, case: Case, times: float, seconds: float) -> Round:
    """Measure once."""
    alone = keep_busy(free, case, 1, seconds / 2)
    before = keep_busy(free, case, 16, seconds / 2)
    over = overload(limited, case, times * before.rate, seconds)
    after = keep_busy(free, case, 16, seconds / 2)
    return Round(alone, before, over, after)


def measure(case: Case, rounds: int, times: float, seconds: float) -> None:
    """Measure a case, and print what comes of it."""
    with running(case.app, ()) as free:
        with running(case.app, case.limits) as limited:
            for server in (free, limited):
                keep_busy(server, case, 4, 0.5)
            made = [one_round(free, limited, case, times, seconds) for _ in range(rounds)]
            middle = statistics.median
            capacity, alone = middle(r.capacity for r in made), middle(r.alone.quantile(0.99) for r in made)
            print(f"{case.name}: capacity {capacity:.0f} requests/s, alone p99 {alone:.1f} ms")
            others: Counter[str] = sum((r.over.others for r in made), Counter())
            print(
                f"  {times:g} x, {' '.join(case.limits)}: {100 * middle(r.share for r in made):.0f} % served "
                f"({' '.join(f'{100 * r.share:.0f}' for r in made)}; "
                f"by processor time {100 * middle(r.share_of_work for r in made):.0f} %), "
                f"p50 {middle(r.over.quantile(0.5) for r in made):.1f} ms, "
                f"p99 {middle(r.over.quantile(0.99) for r in made):.1f} ms, "
                f"{middle(r.slower for r in made):.1f} x ({' '.join(f'{r.slower:.1f}' for r in made)}), "
                f"503 {middle(len(r.over.refused) / seconds for r in made):.0f}/s, "
                f"others {dict(+others) or 'none'}",
                flush=True,
            )
        over = overload(free, case, times * capacity, seconds)
        print(
            f"  {times:g} x, no limits: {100 * over.rate / capacity:.0f} % served, "
            f"p50 {over.quantile(0.5):.0f} ms, p99 {over.quantile(0.99):.0f} ms, "
            f"others {dict(+over.others) or 'none'}",
            flush=True,
        )


def main(arguments: list[str]) -> None:
    """Measure the cases that are named, or all."""
    parser = argparse.ArgumentParser(prog="benchmarks.overload")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--times", type=float, default=3.0)
    given = parser.parse_args(arguments)
    for case in CASES:
        if not given.cases or case.name in given.cases:
            measure(case, given.rounds, given.times, given.seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
