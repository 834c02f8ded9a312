"""The file of a Unix socket before it is made: a stale one is removed, a living one stays."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ATTEMPTS: Final = 20
_PAUSE: Final = 0.005
"""Seconds between two attempts to lock a folder. Another server holds the lock for a millisecond."""


@contextmanager
def taking(path: str) -> Iterator[None]:
    """In the block no other server removes or makes the file of a socket in the same folder. Otherwise two
    that start at once could both find the same stale file, and one would remove the other's new one.

    If the folder cannot be locked, the block runs all the same.
    """
    folder = _locked(os.path.dirname(path) or ".")
    try:
        yield
    finally:
        if folder is not None:
            os.close(folder)


def _locked(folder: str) -> int | None:
    """A descriptor of the folder, which holds its lock until it is closed; None if there is none."""
    if sys.platform == "win32":
        return None
    import fcntl  # few servers have Unix sockets

    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:
            break  # this file system has no locks
        else:
            return fd
    os.close(fd)
    return None


def remove_stale(path: str) -> int | None:
    """Remove the socket file of a killed server, but not one at which a server answers. Return its
    permissions, which somebody may have set; None if there is none. Raises OSError.
    """
    if sys.platform == "win32":
        return None
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISSOCK(mode):
            raise OSError(
                errno.EEXIST,
                "there is a file of that name that is not a socket; move it, or choose another path",
            )
    except FileNotFoundError:
        if not os.path.islink(path):
            return None
        raise OSError(
            errno.EEXIST, "there is a link of that name that leads nowhere; remove it, or choose another path"
        ) from None
    if _is_answered(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    _remove(path)
    return stat.S_IMODE(mode)


def _is_answered(path: str) -> bool:
    """Is a server there? Raises OSError."""
    if sys.platform == "win32":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A Unix socket connects at once, or is refused at once. If the server's queue is full, this does not
        # wait for room: the server is there (connect(2), EAGAIN).
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
        except PermissionError as exc:
            raise OSError(
                errno.EEXIST,
                "there is a socket of that name to which this user may not connect, so that a server may be "
                "there: have it removed, or choose another path",
            ) from exc
        except OSError as exc:
            if exc.errno != errno.EPROTOTYPE:
                raise
            raise OSError(
                errno.EEXIST, "there is a socket of that name that takes no connections; choose another path"
            ) from exc
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as exc:
        if exc.errno != errno.EPERM:
            raise
        # A folder with the sticky bit, such as /tmp.
        raise OSError(
            errno.EEXIST,
            "another user's server has left a socket of that name: that user has to remove it; or choose "
            "another path",
        ) from exc
