"""A client of the control socket (`supervisor/control_messages.py`), without a loop."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from types import TracebackType

import trioasgi
from trioasgi.errors import ExitStatus, TrioasgiError
from trioasgi.supervisor.control_messages import (
    LONGEST_ANSWER,
    Answer,
    Ended,
    Refused,
    Request,
    decode_answer,
    encode,
)

PATIENCE = 10.0
"""Seconds in which a supervisor must take a request, and answer one that takes no time."""
_PAUSE = 0.05
"""Seconds between two attempts to connect."""
_CHUNK = 1 << 16


class Connection:
    """A connection to the supervisor at `path`. Its methods raise TrioasgiError, whose message is for the
    user.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._received = bytearray()
        self._sock = _open(path)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sock.close()

    def ask(self, request: Request, *, patience: float | None = PATIENCE) -> Answer:
        """Send a request, and return the answer to it. `patience` None: it may take any time."""
        try:
            self._sock.sendall(encode(request))
        except OSError:
            pass  # it has closed the connection, perhaps with a reason
        answer = self._next_answer(patience)
        if answer is None:
            raise TrioasgiError(f"{self._path}: the server has ended before it answered")
        if isinstance(answer, Refused):
            raise TrioasgiError(answer.reason + _other_version(answer.version))
        return answer

    def wait_for_end(self, answer: Answer | None) -> ExitStatus:
        """Wait until the process has ended. `answer` is that to a StopRequest. Return the exit status."""
        status: ExitStatus | None = None
        while answer is not None:
            if isinstance(answer, Ended):
                status = ExitStatus(answer.status)
            answer = self._next_answer(None)
        if status is None:
            raise TrioasgiError("the server was ended before its workers had stopped")
        return status

    def surprise(self) -> TrioasgiError:
        """The error for an answer to something else."""
        return TrioasgiError(f"{self._path}: what listens there is not a supervisor of this trioasgi")

    def _next_answer(self, patience: float | None) -> Answer | None:
        """The next answer, or None if the connection has ended."""
        self._sock.settimeout(patience)
        while (end := self._received.find(b"\n")) < 0:
            try:
                data = self._sock.recv(_CHUNK)
            except TimeoutError:
                raise TrioasgiError(
                    f"{self._path}: no answer within {PATIENCE:g} s: the server is suspended, or busy"
                ) from None
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._received += data
            if len(self._received) > LONGEST_ANSWER:
                raise self.surprise()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            return decode_answer(line)
        except ValueError:
            raise self.surprise() from None


def _open(path: str) -> socket.socket:
    """A socket that is connected to `path`. Raises TrioasgiError."""
    if sys.platform == "win32":
        raise TrioasgiError("a control socket is a Unix socket, and Windows has none for Python")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    try:
        _connect(sock, path)
    except OSError as error:
        sock.close()
        raise TrioasgiError(f"{path}: {_why(path, error)}") from error
    return sock


def _connect(sock: socket.socket, path: str) -> None:
    """Connect. If the queue of the socket is full, wait for room: the kernel does not, as the socket has a
    timeout (connect(2), EAGAIN). Raises OSError.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _other_version(version: str) -> str:
    own = trioasgi.__version__
    return "" if version in ("", own) else f" (the server is trioasgi {version}, and this command is {own})"


def _why(path: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no control socket: does the server run, and with this --control?"
        case errno.ECONNREFUSED if not _is_socket(path):
            return "this is not a socket"
        case errno.ECONNREFUSED:
            return "nobody listens there: the server has ended"
        case errno.EACCES | errno.EPERM:
            return f"permission denied: only the server's user may connect, and you are {_user()}"
        case errno.EAGAIN:
            return "the server does not answer, and others wait for it already"
        case None:  # Python's own check, "AF_UNIX path too long"
            return "the path is too long for a Unix socket"
        case _:
            return error.strerror or str(error)


def _user() -> str:
    if sys.platform == "win32":
        return "another"
    return f"user {os.getuid()}"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
