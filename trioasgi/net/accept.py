"""Accepting connections from one listening socket."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("trioasgi")

BATCH: Final = 64
"""Connections taken at one wake-up before others get their turn."""

PAUSE: Final = 0.1
"""Seconds to wait when the system has no room for another connection: trying again at once would only burn
CPU.
"""

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_LISTENER_GONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


async def accept_connections(listener: socket.socket, take: Callable[[socket.socket, object], None]) -> None:
    """Call `take(connection, client address)` for each connection that arrives, until cancelled.

    Connections are non-blocking. Raises OSError only if the listening socket itself is broken. An error of a
    single connection, which accept() reports on Linux (accept(2), "Error handling"), is passed over.
    """
    out_of_room = False
    while True:
        await trio.lowlevel.wait_readable(listener)
        for _ in range(BATCH):
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                break  # another worker was faster
            except OSError as exc:
                if exc.errno in _LISTENER_GONE:
                    raise
                if exc.errno in _NO_ROOM:
                    if not out_of_room:
                        logger.warning("cannot accept connections: %s; raise the limit of open files", exc)
                    out_of_room = True
                    await trio.sleep(PAUSE)
                    break
                continue
            out_of_room = False
            connection.setblocking(False)
            take(connection, address)
