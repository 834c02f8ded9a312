"""Tells whether a SIGHUP means that the controlling terminal was closed."""

from __future__ import annotations

import errno
import os
import signal
import sys

_TERMINAL = "/dev/tty"
_GONE = frozenset({errno.ENXIO, errno.EIO, errno.ENODEV, errno.ENOENT})
"""The errors of a process without a controlling terminal (tty(4)). Others, such as EMFILE, tell nothing."""


def watched_terminal() -> Terminal:
    """The controlling terminal of this process. To be called before handlers of SIGHUP are installed: if the
    signal is ignored, as under nohup(1), the end of the terminal is to have no effect.
    """
    if sys.platform == "win32":
        return Terminal(is_there=False)
    return Terminal(is_there=signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_there())


class Terminal:
    """The controlling terminal of this process. `is_there`: was there one at the start?

    The kernel takes the terminal from the processes of a session before it sends the first SIGHUP, and a
    shell passes that on after it has got it.
    """

    def __init__(self, *, is_there: bool) -> None:
        self._was_there = is_there

    def has_hung_up(self) -> bool:
        """Was it closed?"""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    if sys.platform == "win32":
        return False
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno not in _GONE
    return True
