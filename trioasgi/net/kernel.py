"""What the kernel knows of a connected socket besides its bytes, and how to make it reset a connection."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if sys.platform == "linux":
    import fcntl  # not on every platform

if TYPE_CHECKING:
    import trio

MORE: Final = 0x8000 if sys.platform == "linux" else 0
"""For send(2), MSG_MORE: the bytes may wait for those behind them, or for the end of the connection."""

_TIOCOUTQ: Final = 0x5411
_FIONREAD: Final = 0x541B
_ACKNOWLEDGED: Final = 120
"""Where `tcpi_bytes_acked` begins in the answer of TCP_INFO (Linux 4.1 and later): it has eight bytes."""
_READ: Final = 64 * 1024
_INT: Final = struct.Struct("i")
_BIND_TO_INDEX: Final = 62  # SO_BINDTOIFINDEX, from Linux 5.0 on
_NO_INTERFACE: Final = (1 << 31) - 1
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for no time


def undelivered(fd: int) -> int:
    """Bytes in the send queue that the peer has not acknowledged (tcp(7), unix(7): SIOCOUTQ); 0 if the
    platform cannot tell.
    """
    return _queued(fd, _TIOCOUTQ)


def unread(fd: int) -> int:
    """Bytes that have come and nobody has read (tcp(7): SIOCINQ); 0 if the platform cannot tell."""
    return _queued(fd, _FIONREAD)


def _queued(fd: int, which: int) -> int:
    answer = bytearray(_INT.size)
    if sys.platform == "linux":
        try:
            # Into a buffer: with bytes, fcntl fills a kilobyte and makes a new object of it.
            fcntl.ioctl(fd, which, answer)
        except OSError:
            return 0
    (size,) = _INT.unpack(answer)
    return int(size)


def progress(sock: socket.SocketType | trio.socket.SocketType) -> int:
    """A number that changes when the peer of a connection takes bytes. On Linux it is exact for TCP: all that
    the peer has acknowledged (`tcpi_bytes_acked` of tcp(7)). Elsewhere it is what is undelivered, which may
    come to the same number again when more is sent.
    """
    if sock.fileno() < 0:
        return 0  # it is closed
    exact = acknowledged(sock)
    return undelivered(sock.fileno()) if exact is None else exact


def acknowledged(sock: socket.SocketType | trio.socket.SocketType) -> int | None:
    """All bytes that the peer's system has acknowledged; None if that cannot be known."""
    if sys.platform == "linux":
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED + 8)
        except OSError:
            return None  # it is no TCP, or closed
        return int.from_bytes(info[_ACKNOWLEDGED:], sys.byteorder)
    return None


def drop_received(fd: int, most: int) -> None:
    """Read and drop what has arrived on a non-blocking socket, up to about `most` bytes. A close with bytes
    unread resets a TCP connection, and destroys what is on its way to the peer (RFC 1122, 4.2.2.13).
    """
    if sys.platform == "win32":
        return  # a socket is no file there
    try:
        while most > 0 and (data := os.read(fd, _READ)):
            most -= len(data)
    except OSError:
        pass  # there is no more, or the connection is broken


def has_room(fd: int) -> bool:
    """Does the kernel's send buffer have room?"""
    return bool(_poll(fd) & 4)


def is_dead(fd: int) -> bool:
    """Was the connection reset, or have both sides ended it?"""
    return bool(_poll(fd) & 24)


def is_readable(fd: int) -> bool:
    """Is there something to read, or a connection to accept? (Windows does not tell: then yes.)"""
    if sys.platform == "win32":
        return True
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _poll(fd: int) -> int:
    """The events of poll(2) for writing: POLLOUT (4), POLLERR (8), POLLHUP (16)."""
    if sys.platform == "win32":
        return 4
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return next((events for _, events in poll.poll(0)), 0)


def reset_on_close(sock: socket.SocketType | trio.socket.SocketType) -> None:
    """Make TCP send a reset and drop undelivered bytes when `sock` is closed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def refuse_newcomers(listener: socket.socket) -> None:
    """Make the kernel refuse new clients of `listener`, for good. Those in its queue, or in the middle of a
    handshake with the kernel, can still be accepted; a close would reset them. No other process may use the
    socket.

    The socket is bound to a network interface that does not exist, so Linux finds no listener for new
    clients. (`shutdown()` resets the queue, and `listen(0)` still takes a client.) On other platforms, and if
    it is not allowed, nothing is done.
    """
    if sys.platform == "linux" and listener.family in {socket.AF_INET, socket.AF_INET6}:
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _BIND_TO_INDEX, _NO_INTERFACE)
