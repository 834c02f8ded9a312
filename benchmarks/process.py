"""Starting a server, waiting until it listens, and stopping it with all it has started, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .servers import Server, Way

START = 20.0
STOP = 3.0
ROOT = Path(__file__).resolve().parent.parent


class Failed(Exception):  # noqa: N818 - reads as what it says: the server failed
    """A server did not start, or answers wrongly, or the load did not go through."""


class NotOffered(Exception):  # noqa: N818
    """A server has no such feature, by its own documentation."""


@dataclass(frozen=True)
class Workspace:
    """The files that servers need, in a directory of their own."""

    directory: Path

    @property
    def cert(self) -> Path:
        """The certificate, for 127.0.0.1."""
        return self.directory / "cert.pem"

    @property
    def key(self) -> Path:
        """Its key, in PKCS #8: all that granian reads."""
        return self.directory / "key.pem"

    @property
    def file(self) -> Path:
        """What the file case serves."""
        return self.directory / "file.txt"

    def environment(self, server: Server) -> dict[str, str]:
        """What the server finds in its environment."""
        # No bytecode is written: within the second in which a file is saved again, it may count as current.
        return {
            **os.environ,
            "PYTHONPATH": search_path(server),
            "BENCHMARKS_FILE": str(self.file),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def search_path(server: Server) -> str:
    """Where the server's Python looks for modules first."""
    return str(ROOT) if server.site is None else f"{server.site}{os.pathsep}{ROOT}"


@dataclass(frozen=True)
class Running:
    """A server that has been started."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int
    started: float
    """By `time.perf_counter`."""
    output: IO[bytes]

    @property
    def pid(self) -> int:
        """Of the process that was started; others may descend from it."""
        return self.process.pid

    def check_alive(self) -> None:
        """Raise Failed if it has ended."""
        if self.process.poll() is not None:
            raise Failed(f"ended with status {self.process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The last line it has printed that looks like an error, or else the last one."""
        self.output.seek(max(0, os.fstat(self.output.fileno()).st_size - 8000))
        lines = self.output.read().decode(errors="replace").strip().splitlines() or ["(no output)"]
        errors = [line for line in lines if re.search(r"\w(Error|Exception)\b", line)]
        return (errors or lines)[-1].strip(" |")[:200]


@contextlib.contextmanager
def running(
    server: Server, way: Way, app: str, workspace: Workspace, *, wait: bool = True, cwd: Path | None = None
) -> Iterator[Running]:
    """Run the server until the block ends; yield once it listens (`wait`). Raises Failed, NotOffered."""
    port = _free_port()
    command = server.arguments(way, app=app, port=port, cert=str(workspace.cert), key=str(workspace.key))
    if command is None:
        raise NotOffered
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        # A session of its own, so that its workers can be ended with it and a Ctrl-C is ours to handle.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT if cwd is None else cwd,
            env=workspace.environment(server),
            start_new_session=True,
        )
        one = Running(server, process, port, started, output)
        try:
            if wait:
                _wait_until_listening(one)
            yield one
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(one: Running) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        one.check_alive()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", one.port), 1):
            return
        time.sleep(0.02)
    raise Failed(f"does not listen after {START:.0f} s: {one.last_words()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP)
    finally:  # even if a second Ctrl-C cuts the wait short
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError):  # nobody left: as it should be
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP)
