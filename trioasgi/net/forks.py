"""Has this process forked? A child that was forked has copies of all sockets that were open then, as those of
`multiprocessing` have on Linux before Python 3.14.

While such a child lives, `close()` alone ends no connection: the client waits, and a proxy sends the next
request into a connection that nobody reads. `shutdown()` ends it for all who have it. It is one more system
call for each connection, so it is only made in a process that has forked.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_has_forked = False


def _note_fork() -> None:
    global _has_forked
    _has_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_note_fork)


def end_for_all(sock: socket.SocketType) -> None:
    """Call this before a close in TCP's orderly way: if other processes may have the connection, end it for
    them too.
    """
    if _has_forked:
        with suppress(OSError):  # the peer has closed first
            sock.shutdown(socket.SHUT_RDWR)
