"""The states of one worker."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class WorkerState(Enum):
    """The state of a worker."""

    STANDBY = "standby"
    """Its process starts, or has started and waits for its order. The application is not loaded."""
    STARTING = "starting"
    """It loads the application, and that starts."""
    WAITING = "waiting"
    """Its application has started. It waits to be told to accept."""
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


_GONE = "its process is gone, or could not be started"
_LEAVES = "told to stop, or it stops by itself"

WORKER_TRANSITIONS: Mapping[WorkerState, Mapping[WorkerState, str]] = {
    WorkerState.STANDBY: {
        WorkerState.STARTING: "it gets its order",
        WorkerState.DRAINING: "told to stop",
        WorkerState.ENDED: _GONE,
    },
    WorkerState.STARTING: {
        WorkerState.WAITING: "its application has started, and its order says so",
        WorkerState.READY: "it accepts connections",
        WorkerState.DRAINING: _LEAVES,
        WorkerState.ENDED: _GONE,
    },
    WorkerState.WAITING: {
        WorkerState.READY: "it was told to accept connections",
        WorkerState.DRAINING: _LEAVES,
        WorkerState.ENDED: _GONE,
    },
    WorkerState.READY: {WorkerState.DRAINING: _LEAVES, WorkerState.ENDED: _GONE},
    WorkerState.DRAINING: {WorkerState.ENDED: _GONE},
    WorkerState.ENDED: {},
}
"""For each state those that may follow, and when they do."""

BEFORE_END = (WorkerState.STANDBY, WorkerState.STARTING, WorkerState.WAITING, WorkerState.READY)
"""The states of a worker that was not told to stop, and does not stop."""
