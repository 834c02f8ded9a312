"""Connections over which nothing happens, held by a process of their own.

    python -m benchmarks.idle CASE PORT COUNT FIRST

Opens them, asks once on each, prints `open`; on a line from stdin prints how many the server has closed.
Requests of which no two are alike are numbered from FIRST on.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import subprocess
import sys

from .cases import CASES, Case
from .check import connect
from .client import answer_size
from .process import ROOT, Failed
from .traffic import fresh

if sys.platform != "win32":
    import resource

AT_ONCE = 100
CLOSING = 60.0
SPARE_FILES = 200


class Idle:
    """Connections that have been answered once and then do nothing, held by another process.

    A context manager: they are there when it is entered, and gone when it is left.
    """

    def __init__(self, case: Case, port: int, count: int) -> None:
        self._command = [sys.executable, "-m", "benchmarks.idle", case.name, str(port), str(count)]
        self._command.append(str(fresh()))

    def __enter__(self) -> Idle:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if said != "open":
            self.__exit__()
            raise Failed(f"does not keep the idle connections open: {said}")
        return self

    def lost(self) -> int:
        """Let go of them, and return how many the server had closed by then."""
        said, _ = self._process.communicate("close\n", timeout=CLOSING)
        return int(said)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def room() -> int:
    """Raise this process's limit of open files as far as it goes; return how many connections that allows."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard != resource.RLIM_INFINITY:
            return hard - SPARE_FILES
    return sys.maxsize


def hold(case: Case, port: int, count: int, first: int) -> list[socket.socket]:
    """Open so many connections, each with one request answered. Raises OSError."""
    request, traffic, size = case.request(), case.traffic, answer_size(case, port)
    numbers = itertools.count(first)
    opened: list[socket.socket] = []
    while len(opened) < count:
        batch = [connect(port, tls=case.tls) for _ in range(min(AT_ONCE, count - len(opened)))]
        for connection in batch:
            connection.sendall(request if traffic is None else traffic.request(next(numbers)))
        for connection in batch:
            _receive(connection, size)
        opened += batch
    return opened


def _receive(connection: socket.socket, size: int) -> None:
    while size > 0:
        data = connection.recv(size)
        if not data:
            raise ConnectionError("closed before the answer was complete")
        size -= len(data)


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the peer has closed a connection over which nothing was to come."""
    connection.setblocking(False)
    try:
        return not connection.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True


def main(name: str, port: str, count: str, first: str) -> int:
    """Hold connections; return 1, and say why, if they cannot be had."""
    case = next(case for case in CASES if case.name == name)
    try:
        connections = hold(case, int(port), int(count), int(first))
    except OSError as error:
        print(error)
        return 1
    print("open", flush=True)
    sys.stdin.readline()
    print(sum(map(is_closed, connections)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
