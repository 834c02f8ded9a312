"""How a worker has ended: what is known of it, and what that means."""

from __future__ import annotations

import errno
import signal
import sys
from typing import Final

import msgspec

from trioasgi.errors import NO_ROOM, ExitStatus

from .messages import Failed

_NO_ROOM: Final = NO_ROOM | {errno.EAGAIN}
"""Errors that say that the system has no room, also those of fork()."""
_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP}
)
"""Errors that say that the interpreter or the directory cannot be used: trying again would not help."""
_FROM_OUTSIDE = frozenset({-signal.SIGTERM, -signal.SIGINT})
if sys.platform != "win32":
    _FROM_OUTSIDE |= {-signal.SIGKILL, -signal.SIGHUP, -signal.SIGQUIT}
"""Exit statuses of processes that someone else has ended."""


class WorkerEnd(msgspec.Struct):
    """The end of one worker. As text it says, for people, how the process has ended."""

    exit_status: int | None = None
    """As in `subprocess`: negative for a signal; None before the end, and if it could not be started."""
    failure: Failed | None = None
    """The failure that the worker has reported, or that has prevented its start."""
    killed: str | None = None
    """Why the supervisor killed it; None if it did not."""
    was_dismissed: bool = False
    """Did the supervisor end it before its application was loaded, as everything stops?"""
    has_finished: bool = False
    """Has it reported that its server has ended, well or not?"""

    @property
    def lacked_room(self) -> bool:
        """Has it failed because the system has no descriptors, memory or processes left? That may pass."""
        return self.failure is not None and self.failure.lacked_room

    @property
    def is_unexplained(self) -> bool:
        """Has its process ended in another way than by itself, or by the supervisor, so that the log has no
        word of it yet?
        """
        is_explained = self.killed is not None or self.failure is not None or self.has_finished
        return bool(self.exit_status) and not is_explained and not self.was_dismissed

    @property
    def is_from_outside(self) -> bool:
        """Has somebody else ended it?"""
        return self.killed is None and self.failure is None and self.exit_status in _FROM_OUTSIDE

    def is_bad(self, *, was_ready: bool) -> bool:
        """Has it failed, was it killed, or did it cut requests? `was_ready`: did it ever accept any?"""
        if self.failure is not None or self.killed is not None:
            return True
        if not was_ready:  # a Ctrl-C that reaches it may end it in any way
            return False
        # A process manager may send SIGTERM to the workers too, and a terminal SIGINT. A worker that has
        # stopped already has no requests to finish.
        good = (None, 0, -signal.SIGTERM, -signal.SIGINT) if self.has_finished else (None, 0)
        return self.exit_status not in good

    def __str__(self) -> str:
        if self.exit_status is None:
            return "was not started"
        if self.exit_status >= 0:
            return f"ended with exit status {self.exit_status}"
        try:
            return f"was ended by {signal.Signals(-self.exit_status).name}"
        except ValueError:
            return f"was ended by signal {-self.exit_status}"


def failed_start(error: OSError | RuntimeError) -> Failed:
    """The failure of a worker whose process could not be started.

    Python raises RuntimeError if there is no room for a thread, or in fork().
    """
    lacked_room = not isinstance(error, OSError) or error.errno in _NO_ROOM
    hint = "; raise the limits of open files and processes" if lacked_room else ""
    is_refused = isinstance(error, OSError) and error.errno in _REFUSED
    return Failed(
        reason=f"a worker could not be started: {error}{hint}",
        permanent=is_refused,
        status=int(ExitStatus.NOT_STARTED if is_refused else ExitStatus.FAILED),
        lacked_room=lacked_room,
    )
