"""Servers with a control socket, and what the tests say to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.commands import run_here
from tests.support.processes import PATIENCE, ServerProcess, start_server

from .apps import write_app
from .test_workers import wait_for_workers

if sys.platform == "win32":
    raise ImportError("there are no Unix sockets for Python")


PATH = "control.sock"


class Done:
    """What a command has printed, and its exit status."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.out = done.stdout
        self.err = done.stderr


def command(*arguments: str, cwd: Path, named: bool = True, **variables: str) -> Done:
    """Run `trioasgi ARGUMENTS` in this process; unless `named` is false, with the variable that names the
    socket.
    """
    return Done(run_here(*arguments, cwd=cwd, env=_variables(named, variables)))


def command_process(*arguments: str, cwd: Path, named: bool = True, **variables: str) -> Done:
    """As `command`, in a process of its own."""
    return Done(
        subprocess.run(
            [sys.executable, "-m", "trioasgi", *arguments],
            cwd=cwd,
            env={**os.environ, **_variables(named, variables)},
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * PATIENCE,
        )
    )


def _variables(named: bool, others: Mapping[str, str]) -> dict[str, str]:
    return {"NO_COLOR": "1", **others, **({"TRIOASGI_CONTROL": PATH} if named else {})}


@contextlib.contextmanager
def serving(directory: Path, *options: str, workers: int = 2) -> Iterator[ServerProcess]:
    """A server with a control socket, whose workers are all ready."""
    write_app(directory, "old")
    with start_server("app:app", "-w", str(workers), "--control", PATH, *options, cwd=directory) as server:
        wait_for_workers(server, workers)
        yield server


@contextlib.contextmanager
def connected(directory: Path) -> Iterator[socket.socket]:
    """A connection to the control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.path.relpath(directory / PATH))
        yield sock


def exchange(directory: Path, data: bytes) -> bytes:
    """Send `data`, and read to the end."""
    with connected(directory) as sock:
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        return read_to_end(sock)


def read_to_end(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def status(directory: Path) -> dict[str, object]:
    """The answer to `trioasgi status --json`."""
    done = command("status", "--json", cwd=directory)
    assert done.status == 0, done.err
    found: dict[str, object] = json.loads(done.out)
    return found


_directories: dict[int, Path] = {}


def directory_of(server: ServerProcess) -> Path:
    """Where the shared server runs."""
    return _directories[server.pid]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server with one worker, for tests that do not change it."""
    directory = tmp_path_factory.mktemp("shared")
    with serving(directory, workers=1) as server:
        _directories[server.pid] = directory
        yield server
        assert server.stop() == 0
        assert server.output.count("Traceback") == 0
