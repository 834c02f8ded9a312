"""Hands sockets from the supervisor to a worker. Nothing else of an order is not plain JSON.

On Unix the worker inherits descriptors under their numbers. On Windows each socket is duplicated for the
running worker, and the order has the description of the duplicate in base64.
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
    """Start a command in a directory, with a pipe to its stdin. On Unix it inherits `sockets` and the
    descriptor `terminal`.

    It shares stdout and stderr with the supervisor. Raises OSError.
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
    """Describe a socket, so that the running worker `pid` can `take` it. Raises OSError."""
    if sys.platform == "win32":
        return base64.b64encode(sock.share(pid)).decode()
    return sock.fileno()


def take(description: int | str) -> socket.socket:
    """Open a described socket in the worker. Children of the application do not inherit it.

    Raises OSError or ValueError for an invalid description.
    """
    if sys.platform == "win32":
        return socket.fromshare(base64.b64decode(str(description)))
    sock = socket.socket(fileno=int(description))
    sock.set_inheritable(False)
    return sock


def copy_of_terminal() -> int | None:
    """A copy of stdin, if that is a terminal, for a worker, whose own stdin is a pipe. The caller
    closes it.
    """
    if sys.platform == "win32" or sys.stdin is None or not os.isatty(0):
        return None
    return os.dup(0)
