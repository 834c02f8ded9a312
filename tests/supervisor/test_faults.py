"""A short form of `python -m tests.faults`: load, while processes are rolled, scaled, stopped and killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.faults.run import Outcome, freeze, kill, measure, roll, scale, stop_and_go

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_nothing_is_lost_while_workers_are_replaced(tls: bool, tmp_path: Path) -> None:
    async def main() -> Outcome:
        actions = (roll, scale, stop_and_go)
        return await measure(tmp_path, requests=400, actions=actions, tls=tls, clients=1, pause=0.01)

    outcome = trio.run(main)
    assert outcome.tally.failed == []
    assert outcome.status == 0
    assert "Traceback" not in outcome.log
    assert set(outcome.spans) == {"roll", "scale", "stop_and_go"}
    assert len(outcome.tally.answered) == 7  # each kind of client was answered


def test_a_kill_takes_only_what_is_under_way_in_one_worker(tmp_path: Path) -> None:
    async def main() -> Outcome:
        return await measure(tmp_path, requests=400, actions=(kill, freeze), tls=False, clients=1, pause=0.01)

    outcome = trio.run(main)
    assert outcome.kills >= 2
    assert len(outcome.tally.failed) <= outcome.bound, outcome.tally.failed
    assert not any("status" in failure or "not a process id" in failure for failure in outcome.tally.failed)
