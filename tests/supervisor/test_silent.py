"""A worker that has given no sign of life says what it does, and is ended."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.client import Background, get
from tests.support.processes import is_alive, start_server, wait_until

from .apps import write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

OPTIONS = ("--workers", "2", "--timeout-worker", "1")


def test_its_stacks_and_tasks_are_logged(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *OPTIONS, cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        Background(server.url(), "/block")
        silent = int(
            server.wait_for(r"Worker (\d+) has given no sign of life for 1 s .*; it is told to log")[1]
        )
        server.wait_for(rf"\[{silent}\] What this worker does:")
        server.wait_for(r"^  MainThread \(\d+\)")
        server.wait_for(r"time\.sleep\(600\)")
        server.wait_for("^Tasks:")
        server.wait_for(r"^ +connection from 127\.0\.0\.1:\d+: GET /block")
        server.wait_for(rf"Worker {silent} has given no sign of life for 1 s \(--timeout-worker\): killed")
        server.wait_for("^Fatal Python error: Aborted")
        wait_until(lambda: not is_alive(silent), "it has ended")
        wait_for_workers(server, 3)
        assert server.stop() == 0


def test_one_whose_c_code_holds_the_gil_shows_its_stack_and_ends(tmp_path: Path) -> None:
    write_app(tmp_path, "yes", extra="import ctypes")
    app = tmp_path / "app.py"
    app.write_text(app.read_text().replace("time.sleep(600)", "ctypes.PyDLL(None).sleep(600)"))
    with start_server("app:app", *OPTIONS, cwd=tmp_path) as server:
        wait_for_workers(server, 2)
        Background(server.url(), "/block")
        silent = int(server.wait_for(r"Worker (\d+) has given no sign of life for 1 s .*: killed")[1])
        server.wait_for("^Fatal Python error: Aborted")
        server.wait_for(r'^  File ".*app\.py", line \d+ in app')
        wait_until(lambda: not is_alive(silent), "it has ended")
        wait_for_workers(server, 3)
        assert server.stop() == 0


def test_one_that_is_stopped_is_killed(tmp_path: Path) -> None:
    write_app(tmp_path, "yes")
    with start_server("app:app", *OPTIONS, cwd=tmp_path) as server:
        url = server.url()
        victim, _ = wait_for_workers(server, 2)
        os.kill(victim, signal.SIGSTOP)
        server.wait_for(rf"Worker {victim} has given no sign of life for 1 s \(--timeout-worker\): killed")
        wait_until(lambda: not is_alive(victim), "it has ended")
        wait_for_workers(server, 3)
        assert get(url).body == "yes"
        assert server.stop() == 0
