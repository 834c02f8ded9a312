"""Accepting connections from one listening socket."""

from __future__ import annotations

import errno
import logging
import math
import socket
from collections.abc import Callable
from typing import Final

import trio

logger = logging.getLogger("trioasgi")

BATCH: Final = 16
"""Connections taken at one wake-up before others get their turn: the first steps of all of them come in the
next round.
"""

PAUSE: Final = 0.1
"""Seconds to wait when the system has no room for another connection: trying again at once would only burn
CPU.
"""

TELL_EVERY: Final = 10.0
"""Seconds between two log lines that say so."""

NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says where it has no room for another file or connection: that may pass."""

_LISTENER_GONE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


Take = Callable[[socket.socket, object], None]
"""What is done with a connection (non-blocking) and its client's address."""


async def accept_connections(listener: socket.socket, take: Take) -> None:
    """Call `take` for each connection that arrives, until cancelled.

    Raises OSError only if the listening socket itself is broken.
    """
    told = -math.inf
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            accept_waiting(listener, take)
        except OSError as exc:
            if exc.errno not in NO_ROOM:
                raise
            if trio.current_time() >= told + TELL_EVERY:
                told = trio.current_time()
                logger.warning("cannot accept connections: %s; raise the limit of open files", exc)
            await trio.sleep(PAUSE)


def accept_waiting(listener: socket.socket, take: Take, most: int = BATCH) -> None:
    """Call `take` for the connections that wait in the listener's queue, for `most` of them at the most.

    An error of a single connection, which accept() reports on Linux (accept(2), "Error handling"), is passed
    over. Raises OSError if the listener is broken, or the system has no room for another connection.
    """
    for _ in range(most):
        try:
            connection, address = listener.accept()
        except BlockingIOError:
            return  # the queue is empty, or another worker was faster
        except OSError as exc:
            if exc.errno in _LISTENER_GONE or exc.errno in NO_ROOM:
                raise
            continue
        connection.setblocking(False)
        take(connection, address)
