"""A short form of `python -m tests.faults`: load, while processes are rolled, scaled, stopped and killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict

import pytest
import trio

from tests.faults.run import (
    RELOADED,
    STEERED,
    Action,
    Outcome,
    eat,
    freeze,
    kill,
    measure,
    reload,
    roll,
    scale,
    stop_and_go,
)

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)


class Light(TypedDict):
    """What makes a run short."""

    requests: int
    clients: int
    pause: float
    calm: float


LIGHT: Light = {"requests": 400, "clients": 1, "pause": 0.02, "calm": 0.2}
EACH = (roll, scale, eat if sys.platform == "linux" else stop_and_go, stop_and_go)


@pytest.mark.parametrize(
    ("tls", "actions"), [(False, EACH), (True, (roll, stop_and_go))], ids=["plain", "TLS"]
)
def test_nothing_is_lost_while_workers_are_replaced(
    tls: bool, actions: tuple[Action, ...], tmp_path: Path
) -> None:
    async def main() -> Outcome:
        return await measure(tmp_path, actions=actions, tls=tls, **LIGHT)

    outcome = trio.run(main)
    check_that_nothing_is_lost(outcome)
    assert set(outcome.spans) == {action.__name__ for action in actions}


def test_nothing_is_lost_while_files_are_saved(tmp_path: Path) -> None:
    async def main() -> Outcome:
        return await measure(tmp_path, actions=(reload,), tls=False, options=RELOADED, **LIGHT)

    check_that_nothing_is_lost(trio.run(main))


def check_that_nothing_is_lost(outcome: Outcome) -> None:
    """All kinds of clients were answered, always, also while the server stopped."""
    assert outcome.tally.failed == []
    assert outcome.status == 0
    assert "Traceback" not in outcome.log
    assert len(outcome.tally.answered) == 7  # each kind of client


def test_a_kill_takes_only_what_is_under_way_in_one_worker(tmp_path: Path) -> None:
    async def main() -> Outcome:
        options = (*STEERED, "--timeout-worker", "2")
        return await measure(tmp_path, actions=(kill, freeze), tls=False, options=options, **LIGHT)

    outcome = trio.run(main)
    assert len(outcome.deaths) >= 2
    assert outcome.lost_without_reason == []
    assert not any("status" in each.what or "not a process id" in each.what for each in outcome.tally.failed)
