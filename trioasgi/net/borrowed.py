"""The listening sockets that a program hands to `serve`. They stay the program's: the server uses duplicates,
which it makes non-blocking.

All duplicates of a socket block, or none does: O_NONBLOCK belongs to the open file, not to its descriptor
(POSIX, "open file description"). So the caller's socket is non-blocking too, and it blocks again when the
last duplicate is closed. Otherwise a program that accepts from it afterwards would get BlockingIOError.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Final

import trio

from trioasgi.errors import ConfigError
from trioasgi.net.listeners import close_listeners, is_listening

GivenSocket = socket.socket | trio.socket.SocketType | trio.SocketListener
"""A listening stream socket that `serve` can use."""

_USABLE: Final = (socket.socket, trio.socket.SocketType, trio.SocketListener)

_FIX: Final = (
    "pass listening stream sockets, as socket.create_server() or trio.open_tcp_listeners() make them"
)

_CLOSED: Final = frozenset({errno.EBADF, errno.ENOTSOCK})


def borrow_listeners(sockets: GivenSocket | Iterable[GivenSocket]) -> list[socket.socket]:
    """Duplicates of the sockets, non-blocking. The caller closes the duplicates with `close_listeners`.

    Raises ConfigError, which says what cannot be used and what would be right.
    """
    if isinstance(sockets, _USABLE):
        return [_borrow(sockets, "sockets")]
    if isinstance(sockets, str | bytes) or not isinstance(sockets, Iterable):
        raise ConfigError(_why_unusable(sockets, "sockets"))
    borrowed: list[socket.socket] = []
    with ExitStack() as undo:
        undo.callback(close_listeners, borrowed)
        for index, given in enumerate(sockets):
            borrowed.append(_borrow(given, f"sockets[{index}]"))
        if not borrowed:
            raise ConfigError(f"sockets is empty: {_FIX}, or leave it out")
        undo.pop_all()
    return borrowed


def _borrow(given: object, name: str) -> socket.socket:
    """A duplicate of `given`, which the error calls `name`."""
    if not isinstance(given, _USABLE) or isinstance(given, ssl.SSLSocket):
        raise ConfigError(_why_unusable(given, name))
    own = given.socket if isinstance(given, trio.SocketListener) else given
    try:
        # Not its method: that sets the mode of the duplicate, and so of the socket.
        duplicate = _Borrowed(fileno=socket.dup(own.fileno()))
    except OSError as exc:
        if exc.errno not in _CLOSED:
            raise
        raise ConfigError(f"{name} is closed: {_FIX}") from exc
    with ExitStack() as undo:
        undo.callback(duplicate.close)
        problem = _problem(duplicate)
        if problem is not None:
            raise ConfigError(f"{name} {problem}")
        duplicate.stop_blocking(own)
        undo.pop_all()
    return duplicate


class _Borrowed(socket.socket):
    """A duplicate of a socket of the program's."""

    _blocked = False
    """Did the socket block before the server used it?"""

    def stop_blocking(self, own: socket.socket | trio.socket.SocketType) -> None:
        """Make the socket, which the program has as `own`, non-blocking until `close()`."""
        with _lock:
            self._blocked = _blocks(own)
            self.setblocking(False)
            _borrowed.append(self)

    def close(self) -> None:
        """Close the duplicate. A socket that has blocked before blocks again after its last duplicate."""
        with _lock:
            if self in _borrowed:
                _borrowed.remove(self)
                self._restore()
        super().close()

    def _restore(self) -> None:
        if not self._blocked:
            return
        others = (other for other in _borrowed if _identity(other) == _identity(self))
        last = next(others, None)
        if last is None:
            self.setblocking(True)
        else:
            last._blocked = True


_borrowed: list[_Borrowed] = []
"""The duplicates that are open in this process."""

_lock = threading.Lock()
"""Trio runs in several threads may use the same socket."""


def _blocks(own: socket.socket | trio.socket.SocketType) -> bool:
    if sys.platform != "win32":
        return os.get_blocking(own.fileno())
    return isinstance(own, socket.socket) and own.gettimeout() is None


def _identity(sock: socket.socket) -> tuple[object, ...]:
    """What two duplicates of one socket have in common. Only Linux gives each socket an inode number."""
    if sys.platform == "win32":
        return (sock.getsockname(),)
    return (os.fstat(sock.fileno()).st_ino, sock.getsockname())


def _problem(sock: socket.socket) -> str | None:
    """Why `sock` cannot be served on, and what would be right; None if it can."""
    if sock.type != socket.SOCK_STREAM:
        kind = getattr(sock.type, "name", sock.type)
        return f"is a socket of the type {kind}, and HTTP/1.1 needs SOCK_STREAM: {_FIX}"
    if _is_connected(sock):
        return f"is a connection, which trioasgi.serve_stream serves: {_FIX}"
    if _has_no_address(sock):
        return "has no address: call its bind() and listen() first"
    if not is_listening(sock):
        return "does not listen: call its listen() first"
    return None


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _has_no_address(sock: socket.socket) -> bool:
    name = sock.getsockname()
    return not name or (sock.family in {socket.AF_INET, socket.AF_INET6} and name[1] == 0)


def _why_unusable(given: object, name: str) -> str:
    """Why an object that is no plain socket cannot be used, and what would be right."""
    match given:
        case ssl.SSLSocket():
            fix = "pass the socket as it was before it was wrapped, and the certificate as certfile"
        case trio.SSLListener():
            fix = "pass its transport_listener, and the certificate as certfile"
        case bool():
            fix = _FIX
        case int():
            return f"{name} is the int {given}: to serve on an inherited descriptor, use bind='fd:{given}'"
        case str():
            return f"{name} is the str {given!r}: to serve on an address, use bind={given!r}"
        case _:
            fix = _FIX
    return f"{name} is of type {type(given).__name__}: {fix}"
