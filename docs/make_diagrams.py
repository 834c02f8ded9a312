"""Write the diagrams of `states.md`, each from the table of transitions that the code checks.

Run it as `python docs/make_diagrams.py` after a change to a table. A diagram stands between the lines
`<!-- diagram: NAME -->` and `<!-- end -->`; NAME is one of `MACHINES`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from trioasgi.http import response
from trioasgi.http1 import phase
from trioasgi.net import latency
from trioasgi.process.lifecycle import STAGE_TRANSITIONS, Stage
from trioasgi.server.progress import PHASE_TRANSITIONS, ServerPhase
from trioasgi.supervisor.roll import ROLL_TRANSITIONS, RollState
from trioasgi.supervisor.slots import (
    SLOT_TRANSITIONS,
    SUPERVISOR_TRANSITIONS,
    SlotState,
    SupervisorState,
)
from trioasgi.supervisor.stopgap import STOPGAP_TRANSITIONS, StopgapState
from trioasgi.supervisor.worker_state import WORKER_TRANSITIONS, WorkerState
from trioasgi.websocket import state as websocket

PAGE = Path(__file__).with_name("states.md")

Table = Mapping[Any, Mapping[Any, str] | Collection[Any]]
"""For each state those that may follow; where it is a mapping, when they do."""

MACHINES: dict[str, tuple[type[Enum], Table]] = {
    "lifecycle": (Stage, STAGE_TRANSITIONS),
    "server": (ServerPhase, PHASE_TRANSITIONS),
    "supervisor": (SupervisorState, SUPERVISOR_TRANSITIONS),
    "slot": (SlotState, SLOT_TRANSITIONS),
    "roll": (RollState, ROLL_TRANSITIONS),
    "stopgap": (StopgapState, STOPGAP_TRANSITIONS),
    "worker": (WorkerState, WORKER_TRANSITIONS),
    "load": (latency.Load, latency.TRANSITIONS),
    "http1": (phase.ConnectionPhase, phase.TRANSITIONS),
    "response": (response.ResponsePhase, response.TRANSITIONS),
    "websocket": (websocket.SessionState, websocket.SESSION_TRANSITIONS),
    "websocket_reader": (websocket.ReadBy, websocket.READ_BY_TRANSITIONS),
}
"""By the name of its diagram. The first state of a table is the one that it begins in."""

_DIAGRAM = re.compile(r"(<!-- diagram: (\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def diagram(states: type[Enum], table: Table) -> str:
    """The machine as Mermaid's `stateDiagram-v2`."""
    missing = [state for state in states if state not in table]
    if missing:
        raise ValueError(f"not in the table: {missing}")
    return "\n".join(["```mermaid", "stateDiagram-v2", *_lines(table), "```", ""])


def _lines(table: Table) -> Iterator[str]:
    yield f"    [*] --> {_name(next(iter(table)))}"
    for state, following in table.items():
        for after in following:
            label = f": {following[after]}" if isinstance(following, Mapping) else ""
            yield f"    {_name(state)} --> {_name(after)}{label}"
        if not following:
            yield f"    {_name(state)} --> [*]"


def _name(state: Enum) -> str:
    return state.name.lower()


def page(text: str) -> str:
    """The page `text` with its diagrams made anew. Raises KeyError for one that has no table."""
    return _DIAGRAM.sub(lambda found: f"{found[1]}{diagram(*MACHINES[found[2]])}{found[4]}", text)


def shown(text: str) -> list[str]:
    """The names of the diagrams in a page."""
    return [found[2] for found in _DIAGRAM.finditer(text)]


def main(arguments: list[str]) -> str | None:
    """Write the page; with `--check`, only say what is wrong with the one that is there."""
    current = PAGE.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        return None if current == page(current) else f"{PAGE.name} is out of date; run: {__file__}"
    PAGE.write_text(page(current), encoding="utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
