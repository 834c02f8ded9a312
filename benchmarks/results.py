"""What was measured: kept by case and server, summarised over the rounds, written to JSON and read back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import msgspec

from .measure import Figures


@dataclass
class Outcome:
    """All rounds of one case on one server, and why there are no more."""

    case: str
    server: str
    rounds: dict[int, Figures] = field(default_factory=dict)
    failure: str | None = None
    offered: bool = True

    @property
    def counts(self) -> bool:
        """Whether it can be compared."""
        return self.failure is None and bool(self.rounds)

    def median(self) -> float:
        """The median of the main figure."""
        return statistics.median(one.value for one in self.rounds.values())

    def spread(self) -> float:
        """Half the range of the main figure, as a part of the median; 0 for a single round."""
        values = [one.value for one in self.rounds.values()]
        return (max(values) - min(values)) / 2 / self.median()

    def per_second(self) -> float:
        """The median of requests per second; 0 where none are counted."""
        return statistics.median(one.per_second for one in self.rounds.values())

    def p99_ms(self) -> float:
        """The median of the 99th percentile of response times, in milliseconds; 0 where none is taken."""
        return statistics.median(one.p99_ms for one in self.rounds.values())

    def note(self, name: str) -> float | None:
        """The median of one of the notes, where there is one."""
        values = [one.notes[name] for one in self.rounds.values() if name in one.notes]
        return statistics.median(values) if values else None


def ratio(these: Outcome | None, those: Outcome | None) -> float | None:
    """Return the median, over the rounds that both have, of `these`' main figure divided by `those`'.

    None if either cannot be compared.
    """
    if these is None or those is None or not these.counts or not those.counts:
        return None
    ratios = [
        one.value / those.rounds[number].value
        for number, one in these.rounds.items()
        if number in those.rounds and those.rounds[number].value > 0
    ]
    return statistics.median(ratios) if ratios else None


class About(TypedDict):
    """What the figures depend on."""

    date: str
    python: str
    system: str
    processor: str
    cpus: int
    versions: dict[str, str]
    load: str
    seconds: int


@dataclass
class Results:
    """A whole run."""

    about: About
    outcomes: list[Outcome] = field(default_factory=list)

    def outcome(self, case: str, server: str) -> Outcome:
        """The outcome of a case on a server, made if it is new."""
        found = self.find(case, server)
        if found is None:
            found = Outcome(case, server)
            self.outcomes.append(found)
        return found

    def find(self, case: str, server: str) -> Outcome | None:
        """The outcome of a case on a server, if there is one."""
        return next((one for one in self.outcomes if (one.case, one.server) == (case, server)), None)

    def ratio(self, case: str, server: str, to: str) -> float | None:
        """See `ratio`, between two servers in one case."""
        return ratio(self.find(case, server), self.find(case, to))

    def of(self, case: str) -> Sequence[Outcome]:
        """The outcomes of a case, in the order of the servers."""
        return [one for one in self.outcomes if one.case == case]

    def to_json(self) -> bytes:
        """Every measurement, to be read by `from_json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @classmethod
    def from_json(cls, data: bytes) -> Results:
        """What `to_json` wrote. Raises msgspec.ValidationError."""
        return msgspec.json.decode(data, type=cls, strict=False)
