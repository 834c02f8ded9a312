"""At a stop no worker that does not serve yet has the sockets for longer than those that serve: the kernel
would let clients in that nobody accepts.

The sockets are inherited ones here: of others the kernel refuses new clients at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import ONE_WORKER, ServerProcess, start_server

from .apps import write, write_app
from .test_stopping import is_refused
from .test_workers import wait_for_workers

if sys.platform == "win32":
    pytest.skip("signals as Unix has them", allow_module_level=True)

Address = tuple[str, int]

SLOW_INTERPRETER = """
import os, sys, time

if "trioasgi.worker" in sys.orig_argv and os.path.exists("slow"):
    print("interpreter starts", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def serving_an_inherited_socket(cwd: Path, *options: str) -> Iterator[tuple[ServerProcess, Address]]:
    """A server with the only copies of its socket, and the address. The directory is in PYTHONPATH."""
    with contextlib.ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as parent:
            address: Address = parent.getsockname()
            bind = ("--bind", f"fd:{parent.fileno()}")
            server = stack.enter_context(
                start_server(
                    *("app:app", *options, *bind),
                    cwd=cwd,
                    env={"PYTHONPATH": os.pathsep.join([str(cwd), *sys.path])},
                    pass_fds=(parent.fileno(),),
                )
            )
            server.wait_for("Serving on")
        yield server, address


def stop_and_wait_for(server: ServerProcess, workers: list[int]) -> None:
    server.send(signal.SIGTERM)
    for pid in workers:
        server.wait_for(f"Worker {pid} has stopped")


def roll(server: ServerProcess, workers: list[int]) -> list[int]:
    server.send(signal.SIGHUP)
    return workers


def add_one(server: ServerProcess, workers: list[int]) -> list[int]:
    server.send(signal.SIGTTIN)
    return workers


def kill_one(server: ServerProcess, workers: list[int]) -> list[int]:
    os.kill(workers[0], signal.SIGKILL)
    return workers[1:]


@pytest.mark.parametrize("cause", [roll, add_one, kill_one])
def test_one_whose_interpreter_starts_is_gone_before_those_that_serve(
    cause: Callable[[ServerProcess, list[int]], list[int]], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_INTERPRETER)
    write_app(tmp_path, "yes")
    with serving_an_inherited_socket(tmp_path, "--workers", "2") as (server, address):
        workers = wait_for_workers(server, 2)
        (tmp_path / "slow").touch()
        serving = cause(server, workers)
        server.wait_for("interpreter starts")
        stop_and_wait_for(server, serving)
        assert is_refused(address)
        assert server.wait() == 0, server.output.text
        assert "WARNING .*Worker" not in server.output.text


def test_a_standby_without_an_order_is_gone_before_the_one_that_serves(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_INTERPRETER)
    write_app(tmp_path, "yes", extra="open('slow', 'w').close()")  # the standby starts after this
    with serving_an_inherited_socket(tmp_path, "--reload") as (server, address):
        workers = wait_for_workers(server, 1)
        server.wait_for("interpreter starts")
        stop_and_wait_for(server, workers)
        assert is_refused(address)
        assert server.wait() == 0, server.output.text


SLOW_START_UP = """
import os
import time
import trio

async def app(scope, receive, send):
    if os.path.exists("slow"):
        print("start-up begins", flush=True)
        while not os.path.exists("released"):
            WAIT
    message = await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""
SHIELDED = """
            with trio.CancelScope(shield=True):
                await trio.sleep(0.02)
"""


@pytest.mark.parametrize("wait", [SHIELDED.strip(), "time.sleep(0.02)"], ids=["shielded", "blocking"])
def test_one_whose_start_up_does_not_end_closes_the_sockets_before_the_one_that_serves(
    wait: str, tmp_path: Path
) -> None:
    write(tmp_path, SLOW_START_UP.replace("WAIT", wait))
    with serving_an_inherited_socket(tmp_path, *ONE_WORKER) as (server, address):
        workers = wait_for_workers(server, 1)
        (tmp_path / "slow").touch()
        server.send(signal.SIGHUP)
        server.wait_for("start-up begins")
        stop_and_wait_for(server, workers)
        assert is_refused(address)
        (tmp_path / "released").touch()
        assert server.wait() == 0, server.output.text


def test_a_successor_that_does_not_end_by_itself_is_told_by_the_status(tmp_path: Path) -> None:
    write(tmp_path, SLOW_START_UP.replace("WAIT", SHIELDED.strip()))
    graces = ("--timeout-graceful-shutdown", "0", "--timeout-shutdown", "0.1")
    with start_server("app:app", *ONE_WORKER, *graces, cwd=tmp_path) as server:
        wait_for_workers(server, 1)
        (tmp_path / "slow").touch()
        server.send(signal.SIGHUP)
        server.wait_for("start-up begins")
        assert server.stop() == 1, server.output.text
        assert server.output.count("ERROR .* lifespan call does not end$") == 1, server.output.text
