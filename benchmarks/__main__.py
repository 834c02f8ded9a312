"""Run each server in turn, round by round, and print what a request costs.

A round measures every server once, so that whatever else the machine does falls on all of them; ratios are
taken within a round, and medians over the rounds. The figure to compare is CPU per request: requests per
second depend on the client as well.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from . import load, process
from .tables import CASES, OURS, SERVERS, Case, Server

WARM_UP = 1  # seconds


@dataclass(frozen=True)
class Measurement:
    """One server in one round."""

    case: str
    server: str
    round: int
    cpu_us: float
    """The server's CPU time per request, in microseconds."""
    requests: int
    per_second: float


Results = dict[str, list[Measurement]]


def measure(case: Case, server: Server, number: int, seconds: int) -> Measurement:
    """Start the server, warm it up, load it, stop it. Raises process.Failed."""
    with process.serving(server, case) as (pid, port):
        load.run(case, port, WARM_UP)
        before = process.cpu_seconds(pid)
        done = load.run(case, port, seconds)
        used = process.cpu_seconds(pid) - before
    if done.requests == 0:
        raise process.Failed("answered no request under load")
    return Measurement(
        case.name, server.name, number, used / done.requests * 1e6, done.requests, done.per_second
    )


def compare(case: Case, servers: Sequence[Server], rounds: int, seconds: int) -> Results:
    """Measure every server in every round; one that fails is named and left out from then on."""
    results: Results = {server.name: [] for server in servers}
    running = list(servers)
    for number in range(1, rounds + 1):
        for server in tuple(running):
            try:
                got = measure(case, server, number, seconds)
            except process.Failed as error:
                running.remove(server)
                print(f"  {server.name}: left out: {error}", file=sys.stderr)
                continue
            results[server.name].append(got)
            print(f"  round {number}: {server.name}: {got.cpu_us:.1f} us", file=sys.stderr)
    return {name: measurements for name, measurements in results.items() if measurements}


def ratio(these: Sequence[Measurement], those: Sequence[Measurement]) -> float | None:
    """Return the median over the rounds of how much more CPU `these` took than `those` in that round."""
    others = {one.round: one.cpu_us for one in those}
    ratios = [one.cpu_us / others[one.round] for one in these if others.get(one.round)]
    return statistics.median(ratios) if ratios else None


def table(results: Mapping[str, Sequence[Measurement]]) -> str:
    """Lay out medians and ratios, a server a line."""
    header = ("", "us CPU/request", "requests/s", *(f"CPU / {name}" for name in OURS))
    rows = [header]
    for name, measurements in results.items():
        ratios = (ratio(measurements, results.get(ours, ())) for ours in OURS)
        rows.append(
            (
                name,
                f"{statistics.median(one.cpu_us for one in measurements):.1f}",
                f"{statistics.median(one.per_second for one in measurements):,.0f}",
                *("-" if one is None else f"{one:.2f}" for one in ratios),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def present(server: Server) -> bool:
    """Tell whether a server can be started at all, and say so if not."""
    missing = server.missing()
    if missing:
        print(f"  {server.name}: left out: not installed: {', '.join(missing)}", file=sys.stderr)
    return not missing


def about(servers: Sequence[Server]) -> dict[str, object]:
    """Describe what the figures depend on."""
    packages = {package for server in servers for package in (server.package, *server.needs)}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": load.generator(),
        "connections": load.CONNECTIONS,
        "versions": {package: version(package) for package in sorted(packages)},
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=3, metavar="N", help="of load; default: %(default)s")
    parser.add_argument("--server", action="append", default=[], metavar="TEXT", help="only those named so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there too")
    parsed = parser.parse_args()
    if parsed.rounds < 1 or parsed.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return parsed


def main() -> int:
    """Compare, print, and return 1 if nothing could be measured."""
    if sys.platform != "linux":
        print("CPU time is read from /proc: this needs Linux", file=sys.stderr)
        return 1
    options = arguments()
    wanted = [
        one for one in SERVERS if not options.server or any(part in one.name for part in options.server)
    ]
    servers = [server for server in wanted if present(server)]
    print(f"load by {load.generator()}, {load.CONNECTIONS} connections", file=sys.stderr)
    results = {case.name: compare(case, servers, options.rounds, options.seconds) for case in CASES}
    for name, measured in results.items():
        print(f"{name}\n{table(measured)}" if measured else f"{name}: nothing could be measured")
    if options.json is not None:
        every = [asdict(one) for case in results.values() for server in case.values() for one in server]
        options.json.write_text(json.dumps({"about": about(servers), "measurements": every}, indent=1) + "\n")
    return 0 if any(results.values()) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
