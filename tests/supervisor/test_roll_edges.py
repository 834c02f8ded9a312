"""Rolls that meet something else: another roll, workers that leave or are due meanwhile, slots that go."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import start_server, wait_until

from .apps import write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

NTH_WAITS = """
    import os, time
    with open("starts", "a") as file:
        file.write("x")
    if os.path.getsize("starts") == {number}:
        open("waits", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.02)
"""
"""The worker that is the `number`th to load the application waits for the file `go`."""


def test_a_roll_that_was_asked_for_follows_one_that_ends_with_the_slot_it_waited_for(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra=NTH_WAITS.format(number=4))
    with start_server("app:app", "--workers", "2", cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        server.send(signal.SIGHUP)
        wait_until((tmp_path / "waits").exists, "the second new worker loads")
        server.send(signal.SIGHUP)
        server.wait_for("Another roll follows")
        mark = server.output.mark
        server.send(signal.SIGTTOU)
        server.wait_for("Rolled: every worker is new", after=mark)
        mark = server.output.mark
        server.wait_for("Rolled: every worker is new", after=mark, patience=10)
        assert server.stop() == 0
