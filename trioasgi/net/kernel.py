"""What the kernel says of a connected socket beyond its bytes, and how it is told to reset a connection."""

from __future__ import annotations

import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

_TIOCOUTQ: Final = 0x5411
_INT: Final = struct.Struct("i")
_BIND_TO_INDEX: Final = 62  # SO_BINDTOIFINDEX, from Linux 5.0 on
_NO_INTERFACE: Final = (1 << 31) - 1
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for no time


def undelivered(fd: int) -> int:
    """Bytes in the send queue that the peer has not acknowledged (tcp(7), unix(7): SIOCOUTQ); 0 where there
    is no way to know.
    """
    if sys.platform != "linux":
        return 0
    import fcntl  # not on every platform

    try:
        answer = fcntl.ioctl(fd, _TIOCOUTQ, bytes(_INT.size))
    except OSError:
        return 0
    (size,) = _INT.unpack(answer)
    return int(size)


def has_room(fd: int) -> bool:
    """Would a send be taken now?"""
    return bool(_poll(fd) & 4)


def is_dead(fd: int) -> bool:
    """Was the connection reset, or have both sides ended it?"""
    return bool(_poll(fd) & 24)


def _poll(fd: int) -> int:
    """The events of poll(2) for writing: POLLOUT (4), POLLERR (8), POLLHUP (16)."""
    if sys.platform == "win32":
        return 4
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return next((events for _, events in poll.poll(0)), 0)


def reset_on_close(sock: socket.socket) -> None:
    """Have TCP send a reset when `sock` is closed, and drop what it has not delivered."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def refuse_newcomers(listener: socket.socket) -> None:
    """Have clients refused who come from here on, while those in the queue of `listener` can still be
    accepted, and those who are about to come into it as well: a close resets them. For good; the socket must
    be nobody else's.

    Linux looks for a listening socket by the interface that a client comes in by, too, and none has this
    number. (`shutdown()` resets the queue; with `listen(0)` it still takes one.) Elsewhere, and where it is
    not allowed, nothing is done.
    """
    if sys.platform == "linux" and listener.family in {socket.AF_INET, socket.AF_INET6}:
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _BIND_TO_INDEX, _NO_INTERFACE)
