"""Why a connection returns to the task that serves it."""

from __future__ import annotations

from enum import Enum, auto


class Served(Enum):
    """What `Connection.run` returns (`server.protocols`)."""

    OVER = auto()
    """It serves no more requests, and the task has to close it. The cancel scope is as it was."""
    NEEDS_SCOPE = auto()
    """It goes on in the block of a new cancel scope: a call may have kept the one that it had."""
    TAKEN_OVER = auto()
    """Another task serves it now. This one must leave it alone, and end."""
