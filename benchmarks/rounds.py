"""The order of things: rounds, in each of them every start of the servers, on each start its cases, and each
case on one server after another.

The servers of a start run at the same time, and rest while another is measured. So seconds lie between two
figures that are compared, and whatever else the machine does falls on both; ratios are taken within a round.
Time runs out between two cases, never within one.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from .cases import UNITS, Case, Kind
from .measure import STARTING, Figures, measure
from .process import Failed, NotOffered, Running, Workspace, running
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
                    with _Started(self._workspace) as started:
                        for case in cases:
                            self._check_time(number)
                            self._measure(number, case, started)
        except OutOfTime as end:
            print(end, file=sys.stderr)
            return False
        return True

    def _check_time(self, number: int) -> None:
        if (time.monotonic() - self._begin) / 60 > self._plan.minutes:
            raise OutOfTime(f"{self._plan.minutes:g} minutes are over: round {number} ends here")

    def _measure(self, number: int, case: Case, started: _Started) -> None:
        """Measure a case on each server."""
        for server in self._plan.servers:
            if _takes_part(case, server) and self._is_due(number, case, server):
                self._note(number, case, server, self._result(case, server, started))

    def _result(self, case: Case, server: Server, started: _Started) -> Figures | Failed | NotOffered:
        try:
            if case.kind in STARTING:
                return STARTING[case.kind](case, server, self._workspace)
            return measure(case, started.get(case, server), self._plan.seconds)
        except (Failed, NotOffered) as error:
            started.stop(server)  # the next case starts it anew
            return error

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


class _Started:
    """Servers that run until the end of the block, each from when it is first wanted."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._all = contextlib.ExitStack()
        self._running: dict[str, Running] = {}
        self._stops: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> _Started:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._all.__exit__(kind, error, traceback)

    def get(self, case: Case, server: Server) -> Running:
        """The server, which is started if it does not run. Raises Failed, NotOffered."""
        if server.name not in self._running:
            stop = self._stops[server.name] = self._all.enter_context(contextlib.ExitStack())
            one = running(server, case.way, case.app, self._workspace)
            self._running[server.name] = stop.enter_context(one)
        return self._running[server.name]

    def stop(self, server: Server) -> None:
        """Stop it, if it runs."""
        if self._running.pop(server.name, None) is not None:
            self._stops.pop(server.name).close()


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
