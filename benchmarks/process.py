"""Starting a server, asking whether it works, reading its CPU time, and stopping it whatever happens."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .tables import Case, Server

START = 20.0
STOP = 5.0


class Failed(Exception):  # noqa: N818 - reads as what it says: the server failed
    """A server did not start, or answers wrongly, or the load did not go through."""


@contextlib.contextmanager
def serving(server: Server, case: Case) -> Iterator[tuple[int, int]]:
    """Run the server until the block ends; yield its process id and port once it answers. Raises Failed."""
    port = _free_port()
    with tempfile.TemporaryFile() as output:
        # A session of its own, so that its workers can be ended with it and a Ctrl-C is ours to handle.
        process = subprocess.Popen(
            server.command(case.app, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _wait_until_listening(process, port)
            _check(case, port)
            yield process.pid, port
        except Failed as error:
            output.seek(0)
            said = output.read().decode(errors="replace").strip().splitlines()[-5:]
            raise Failed("\n    ".join([str(error), *said])) from error
        finally:
            _stop(process)


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that a process and its living descendants have used so far."""
    if sys.platform == "win32":
        raise NotImplementedError("there is no /proc")
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone in between
                # The name in parentheses may itself hold spaces and parentheses. proc_pid_stat(5): 4, 14, 15.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(member, 0) for member in family) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"ended with status {process.returncode} instead of serving")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise Failed(f"does not listen after {START:.0f} s")


def _check(case: Case, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START)
    try:
        for _ in range(2):  # the second one over the same connection
            connection.request("GET", case.target)
            response = connection.getresponse()
            body = response.read()
            if (response.status, body) != (200, case.body):
                raise Failed(f"answers {response.status} {body[:80]!r} instead of 200 {case.body!r}")
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"does not answer: {error!r}") from error
    finally:
        connection.close()


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
