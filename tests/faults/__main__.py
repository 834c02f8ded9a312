"""The long form: `python -m tests.faults --requests 100000`. The exit status is 1 if a request was lost, and
no kill explains it, or if reloads have left something behind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from . import reloads
from .run import GENTLE, HARSH, RELOADED, STEERED, Action, Outcome, measure, reload


def main() -> None:
    """Run each kind of action over plain HTTP and over TLS, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="of all runs together")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two requests of a client")
    parser.add_argument("--reloads", type=int, default=200, help="saves, and rolls, to count what they leave")
    parser.add_argument("--log", action="store_true", help="print the server's log where something was lost")
    arguments = parser.parse_args()
    kinds: list[tuple[str, tuple[Action, ...], tuple[str, ...]]] = [
        ("gentle", GENTLE, STEERED),
        ("harsh", HARSH, STEERED),
        ("reload", (reload,), RELOADED),
    ]
    runs = [(*kind, tls) for kind in kinds for tls in (False, True)]
    good = True
    for name, actions, options, tls in runs:
        with tempfile.TemporaryDirectory() as directory:
            run = partial(
                measure,
                Path(directory),
                requests=arguments.requests // len(runs),
                actions=actions,
                options=options,
                tls=tls,
                pause=arguments.pause,
            )
            outcome = trio.run(run)
        report(f"{name}, {'TLS' if tls else 'plain'}", outcome)
        lost = outcome.lost_without_reason or outcome.status not in (0, 1 if outcome.deaths else 0)
        good = good and not lost
        if lost and arguments.log:
            print(outcome.log)
    good = count_remains(arguments.reloads) and good
    sys.exit(0 if good else 1)


def count_remains(count: int) -> bool:
    """Reload and roll so many times, and print what is left. Return whether nothing is."""
    good = True
    for name, again, options in (
        ("reloads", reloads.save, ("--reload",)),
        ("rolls", reloads.roll, ("--workers", "2")),
    ):
        if count <= reloads.SETTLING:
            continue
        with tempfile.TemporaryDirectory() as directory:
            # Trio keeps the deadlines of workers that have gone for up to half a minute.
            settling = max(reloads.SETTLING, count // 3)
            left = reloads.measure(
                Path(directory), again, *options, reloads=count, processes=2, settling=settling
            )
        print(f"{name}: {left.reloads} in {left.seconds:.0f} s, exit status {left.status}, no zombie")
        print(f"  memory {left.first.memory >> 10} KiB, then {left.last.memory >> 10} KiB", end="; ")
        print(f"{left.last.descriptors} descriptors, {left.last.threads} threads")
        for leak in left.leaks:
            print(f"  left behind: {leak}")
        good = good and not left.leaks and left.status == 0
    return good


def report(name: str, outcome: Outcome) -> None:
    """Print one run."""
    tally = outcome.tally
    without = outcome.lost_without_reason
    print(
        f"{name}: {tally.total} answered, {len(tally.failed)} lost with {len(outcome.deaths)} kills, ", end=""
    )
    print(f"{len(without)} of them without, {tally.asked_again} asked again, exit status {outcome.status}")
    print("  " + ", ".join(f"{kind}: {count}" for kind, count in sorted(tally.answered.items())))
    print(f"  p99 of small ones: {outcome.percentile(0.99) * 1000:.1f} ms while nothing was done")
    for action, spans in outcome.spans.items():
        p99 = outcome.percentile(0.99, action) * 1000
        print(f"  {len(spans)} x {action}: p99 {p99:.1f} ms, {spans[-1][1] - spans[-1][0]:.1f} s the last")
    for failure in without[:10]:
        print(f"  lost without a kill: {failure.what}")


if __name__ == "__main__":
    main()
