"""Sockets that cross from the supervisor to a worker: the one thing that cannot be written as JSON.

On Unix a descriptor is inherited under its number. Windows inherits none; there a socket is duplicated for
the worker's process, once that is running, and what describes the duplicate goes into the order in base64.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence

import trio


async def open_with(
    command: Sequence[str], sockets: Sequence[socket.socket], terminal: int | None, directory: str
) -> trio.Process:
    """Start a command in a directory, with a pipe to its stdin, and with `sockets` and the fd `terminal` if
    it can inherit.

    stdout and stderr are the supervisor's own. Raises OSError.
    """
    if sys.platform == "win32":
        return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, cwd=directory)
    files = [sock.fileno() for sock in sockets]
    if terminal is not None:
        files.append(terminal)
    return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, pass_fds=files, cwd=directory)


@contextlib.contextmanager
def copies(sockets: Sequence[socket.socket]) -> Iterator[list[socket.socket]]:
    """Copies of the sockets, closed at the end. Raises OSError."""
    with contextlib.ExitStack() as made:
        yield [made.enter_context(sock.dup()) for sock in sockets]


def describe(sock: socket.socket, pid: int) -> int | str:
    """What the worker `pid`, which is running, needs to know to `take` this socket. Raises OSError."""
    if sys.platform == "win32":
        return base64.b64encode(sock.share(pid)).decode()
    return sock.fileno()


def take(description: int | str) -> socket.socket:
    """In the worker: the socket that the supervisor described, kept from the application's own children.

    Raises OSError or ValueError for a description that is not one.
    """
    if sys.platform == "win32":
        return socket.fromshare(base64.b64decode(str(description)))
    sock = socket.socket(fileno=int(description))
    sock.set_inheritable(False)
    return sock


def copy_of_terminal() -> int | None:
    """A copy of stdin if that is a terminal, for a worker whose own stdin is a pipe; the caller closes it."""
    if sys.platform == "win32" or sys.stdin is None or not os.isatty(0):
        return None
    return os.dup(0)
