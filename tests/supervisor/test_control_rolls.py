"""Rolls that the control socket is asked for."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.client import get
from tests.support.processes import PATIENCE, is_alive, wait_until

from .apps import IMPORTS_UNTIL_GO, write_app
from .test_roll import workers_that_serve
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("there are no Unix sockets for Python", allow_module_level=True)
from .controlling import PATH, command, command_process, connected, read_to_end, serving, status

HANGS = "import time; print('importing', flush=True); time.sleep(600)"


def test_roll_waits_for_the_end_and_says_why_it_has_failed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url, old = server.url(), server.worker_pids()
        write_app(tmp_path, "broken", extra="1 / 0")
        failed = command_process("roll", cwd=tmp_path)
        assert failed.status == 1
        assert "ZeroDivisionError: division by zero" in failed.err
        assert "Traceback" in failed.err
        assert all(map(is_alive, old))
        found = status(tmp_path)["roll"]
        assert isinstance(found, dict)
        assert found["state"] == "failed"
        assert "ZeroDivisionError" in found["failure"]
        assert "The last roll has failed" in command("status", cwd=tmp_path).out
        write_app(tmp_path, "mended")
        done = command("roll", cwd=tmp_path)
        assert (done.status, done.out, done.err) == (0, "every worker is new\n", "")
        assert get(url).body == "mended"
        # Each worker logs its own stop, and that may be read a moment later.
        wait_until(lambda: len(workers_that_serve(server)) == 2, "two workers are left")
        assert "The last roll was done" in command("status", cwd=tmp_path).out
        assert server.stop() == 0


def test_a_roll_whose_options_are_wrong_has_failed(tmp_path: Path) -> None:
    config = tmp_path / "trioasgi.toml"
    config.write_text("lifespan = 'auto'\n")
    with serving(tmp_path) as server:
        config.write_text("lifespan = 'perhaps'\n")
        failed = command("roll", cwd=tmp_path)
        assert failed.status == 1
        assert "bad value for lifespan: 'perhaps'" in failed.err
        roll = status(tmp_path)["roll"]
        assert isinstance(roll, dict)
        assert roll["state"] == "failed"
        assert "perhaps" in roll["failure"]
        assert server.stop() == 0


def test_two_ask_for_a_roll_and_both_get_its_end(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        old = server.worker_pids()
        write_app(tmp_path, "hangs", extra=HANGS)
        first = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        write_app(tmp_path, "renewed")
        assert command("roll", cwd=tmp_path).status == 0
        assert first.wait(PATIENCE) == 0
        wait_until(lambda: not any(map(is_alive, old)), "the old workers have ended")
        assert get(server.url()).body == "renewed"
        assert server.stop() == 0


def test_two_ask_for_a_roll_that_fails_for_both(tmp_path: Path) -> None:
    config = tmp_path / "trioasgi.toml"
    with serving(tmp_path) as server:
        write_app(tmp_path, "hangs", extra=HANGS)
        first = subprocess.Popen([sys.executable, "-m", "trioasgi", "roll", "--control", PATH], cwd=tmp_path)
        server.wait_for("importing")
        config.write_text("lifespan = 'perhaps'\n")
        assert command("roll", cwd=tmp_path).status == 1
        assert first.wait(PATIENCE) == 1
        assert server.stop() == 0


SECOND_WAITS = """
    import os, time
    if os.path.exists("first"):
        while not os.path.exists("go"):
            time.sleep(0.02)
    open("first", "w").close()
"""


def test_those_who_wait_for_the_next_roll_hear_of_its_failure(tmp_path: Path) -> None:
    """The second and the third are asked for while the first goes on with its second worker."""
    config = tmp_path / "trioasgi.toml"
    roll = [sys.executable, "-m", "trioasgi", "roll", "--control", PATH]
    with serving(tmp_path) as server:
        write_app(tmp_path, "slow", extra=SECOND_WAITS)
        first = subprocess.Popen(roll, cwd=tmp_path)
        wait_for_workers(server, 3)
        config.write_text("lifespan = 'perhaps'\n")
        later = [subprocess.Popen(roll, cwd=tmp_path) for _ in range(2)]
        wait_until(lambda: server.output.count("Another roll follows") == 2, "both are waited for")
        (tmp_path / "go").touch()
        assert first.wait(PATIENCE) == 0
        assert [each.wait(PATIENCE) for each in later] == [1, 1]
        assert server.stop() == 0


def test_a_stop_ends_a_roll_and_tells_who_has_asked_for_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        write_app(tmp_path, "hangs", extra=HANGS)
        roll = subprocess.Popen(
            [sys.executable, "-m", "trioasgi", "roll", "--control", PATH],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for("importing")
        assert command("stop", cwd=tmp_path).status == 0
        _, said = roll.communicate(timeout=PATIENCE)
        assert (roll.returncode, said) == (1, "trioasgi: the server stops\n")
        assert server.wait() == 0


def test_a_client_that_only_stops_sending_gets_its_answer(tmp_path: Path) -> None:
    """`nc -N` does so."""
    with serving(tmp_path) as server:
        with connected(tmp_path) as sock:
            sock.sendall(b'{"command":"roll"}\n')
            sock.shutdown(socket.SHUT_WR)
            assert json.loads(read_to_end(sock))["answer"] == "done"
        server.wait_for("Rolled: every worker is new")
        assert server.stop() == 0


def test_under_reload_it_waits_for_the_end_too(tmp_path: Path) -> None:
    with serving(tmp_path, "--reload", "--reload-exclude", "app.py") as server:
        write_app(tmp_path, "renewed", extra="import time; time.sleep(1)")
        assert command("roll", cwd=tmp_path).status == 0
        assert get(server.url()).body == "renewed"
        wait_for_workers(server, 4)
        write_app(tmp_path, "broken", extra="1 / 0")
        done = command("roll", cwd=tmp_path)
        assert done.status == 1
        assert "ZeroDivisionError" in done.err
        assert server.stop() == 0


def test_a_roll_that_ends_the_server_says_why_it_has_failed(tmp_path: Path) -> None:
    """Its canary cannot start, and the worker was killed meanwhile, so that none is left."""
    with serving(tmp_path, workers=1) as server:
        (old,) = server.worker_pids()
        write_app(tmp_path, "broken", extra=textwrap.dedent(IMPORTS_UNTIL_GO) + "1 / 0\n")
        roll = subprocess.Popen(
            [sys.executable, "-m", "trioasgi", "roll", "--control", PATH],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.wait_for("importing")
        os.kill(old, signal.SIGKILL)
        server.wait_for("was ended by SIGKILL; its successor starts$")
        (tmp_path / "go").touch()
        _, said = roll.communicate(timeout=PATIENCE)
        assert roll.returncode == 1
        assert "ZeroDivisionError: division by zero" in said
        assert server.wait() == 3
