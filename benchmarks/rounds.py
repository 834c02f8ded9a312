"""The order of things: rounds, in each of them every start of a server, on each start its cases.

A round measures every server once, so that whatever else the machine does falls on all of them; ratios are
taken within a round. Time runs out between two starts of a server, never within one.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .cases import UNITS, Case, Kind
from .measure import STARTING, Figures, measure
from .process import Failed, NotOffered, Workspace, running
from .results import Results
from .servers import Server


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and for how long."""

    cases: Sequence[Case]
    servers: Sequence[Server]
    rounds: int
    seconds: int
    """Of load, each time."""
    minutes: float
    """After which nothing more is begun."""


class OutOfTime(Exception):  # noqa: N818
    """The plan's minutes are over."""


class Runner:
    """Carries out a plan; `results` is there at any time."""

    def __init__(self, plan: Plan, workspace: Workspace, results: Results) -> None:
        self.results = results
        self._plan = plan
        self._workspace = workspace
        self._begin = time.monotonic()

    def run(self) -> bool:
        """Measure everything; return False if time was up before that."""
        try:
            for number in range(1, self._plan.rounds + 1):
                for cases in _starts(self._plan.cases):
                    for server in self._plan.servers:
                        self._check_time(number)
                        self._measure(number, server, [case for case in cases if _takes_part(case, server)])
        except OutOfTime as end:
            print(end, file=sys.stderr)
            return False
        return True

    def _check_time(self, number: int) -> None:
        if (time.monotonic() - self._begin) / 60 > self._plan.minutes:
            raise OutOfTime(f"{self._plan.minutes:g} minutes are over: round {number} ends here")

    def _measure(self, number: int, server: Server, cases: Sequence[Case]) -> None:
        """Measure cases on one start of the server, and start it anew after each that it fails."""
        left = deque(case for case in cases if self._is_due(number, case, server))
        while left:
            first = left[0]
            try:
                if first.kind in STARTING:
                    self._note(number, first, server, STARTING[first.kind](first, server, self._workspace))
                    left.popleft()
                    continue
                with running(server, first.way, first.app, self._workspace) as one:
                    while left:
                        self._note(number, left[0], server, measure(left[0], one, self._plan.seconds))
                        left.popleft()
            except (Failed, NotOffered) as error:
                self._note(number, left.popleft(), server, error)

    def _is_due(self, number: int, case: Case, server: Server) -> bool:
        outcome = self.results.outcome(case.name, server.name)
        return outcome.offered and outcome.failure is None and not (case.once and number > 1)

    def _note(self, number: int, case: Case, server: Server, result: Figures | Failed | NotOffered) -> None:
        """Keep a result, and show progress."""
        outcome = self.results.outcome(case.name, server.name)
        match result:
            case Figures():
                outcome.rounds[number] = result
                said = f"{result.value:.1f} {UNITS[case.kind]}"
            case NotOffered():
                outcome.offered = False
                said = "not offered"
            case Failed():
                outcome.failure = said = str(result)
        elapsed = int(time.monotonic() - self._begin)
        clock = f"{elapsed // 60}:{elapsed % 60:02}"
        print(f"{clock} round {number}: {case.name}: {server.name}: {said}", file=sys.stderr, flush=True)


def _takes_part(case: Case, server: Server) -> bool:
    return case.parser or not server.parser_only


def _starts(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Group neighbours that one start of a server serves; those that start it themselves stay alone.

    So do those that measure memory: what one of them has let go, the next would use again.
    """
    for key, group in itertools.groupby(
        cases, lambda case: (case.app, case.way, case.idle, case.kind is Kind.MEMORY or case.kind in STARTING)
    ):
        if key[-1]:
            yield from ([case] for case in group)
        else:
            yield list(group)
