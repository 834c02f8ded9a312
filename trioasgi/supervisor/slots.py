"""What the supervisor keeps for each of its workers, its own state, and the events that it acts on.

A slot has one worker at a time, and gets the next when that is gone. Workers that are replaced drain beside
it; they belong to the slot still, but its state is that of the worker it waits for or has. While the
supervisor stops, no slot gets a worker, and the states of slots mean nothing any more.

The supervisor itself runs until a signal, or until no worker can be started. Then it stops, which is over
when the last worker has ended, or is aborted by a second signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

import msgspec
import trio

from .watcher import FilesChanged
from .worker_process import WorkerEvent, WorkerProcess


class SlotState(Enum):
    """What a slot is doing."""

    STARTING = "starting"
    """Its worker is on the way."""
    SERVING = "serving"
    """Its worker accepts connections."""
    DELAYED = "delayed"
    """Its worker is gone; the next starts after a delay."""
    WAITING = "waiting"
    """Its worker could not start beside its predecessor, which may have what it needs (a port, a lock): it is
    tried again when that has gone."""
    VACANT = "vacant"
    """It has no worker yet; or that is gone, and another would end as it did: only a change can help."""


SLOT_TRANSITIONS: Mapping[SlotState, Mapping[SlotState, str]] = {
    SlotState.VACANT: {
        SlotState.STARTING: "the supervisor begins, or files have changed",
        SlotState.DELAYED: "another slot's worker is ready",
    },
    SlotState.STARTING: {
        SlotState.SERVING: "its worker is ready",
        SlotState.STARTING: "its worker is replaced, or leaves for a good reason",
        SlotState.DELAYED: "its worker has failed, and another may not",
        SlotState.WAITING: "its worker has failed beside its predecessor",
        SlotState.VACANT: "its worker has failed, and so would another",
    },
    SlotState.SERVING: {
        SlotState.STARTING: "its worker is replaced, or leaves for a good reason",
        SlotState.DELAYED: "its worker has crashed",
    },
    SlotState.DELAYED: {SlotState.STARTING: "the delay is over, or files have changed"},
    SlotState.WAITING: {SlotState.STARTING: "the predecessor is gone, or files have changed"},
}
"""For each state those that may follow, and when they do."""


class SupervisorState(Enum):
    """What the supervisor is doing."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Workers drain; over when the last has ended."""
    ABORTED = "aborted"
    """Whatever still runs is killed."""


SUPERVISOR_TRANSITIONS: Mapping[SupervisorState, Mapping[SupervisorState, str]] = {
    SupervisorState.RUNNING: {SupervisorState.STOPPING: "a signal, or no worker can be started"},
    SupervisorState.STOPPING: {SupervisorState.ABORTED: "a second signal"},
    SupervisorState.ABORTED: {},
}


class Slot(msgspec.Struct, eq=False):
    """What belongs to one of the workers, across restarts."""

    state: SlotState = SlotState.VACANT
    worker: WorkerProcess | None = None
    leaving: list[WorkerProcess] = msgspec.field(default_factory=list)
    """Earlier workers that are still draining, the oldest first."""
    crashes: int = 0
    """Ends nobody asked for, one soon after the other."""
    false_starts: int = 0
    """Ends before a worker was ready, one after the other."""
    given_up: int = 0
    """Workers that a change has replaced before they were ready, one after the other."""
    is_outdated: bool = False
    """Whether files have changed since the worker was started; it was left to become ready all the same."""
    delay: trio.CancelScope | None = None
    """Cancelled, it keeps the end of the delay from being told."""

    def enter(self, state: SlotState) -> None:
        """Change the state; what is not in the table is a mistake in the supervisor."""
        assert state in SLOT_TRANSITIONS[self.state], (self.state, state)
        self.state = state


class DelayOver(msgspec.Struct, frozen=True):
    """The delay before a slot's next worker has passed."""

    slot: Slot
    scope: trio.CancelScope


class PatienceOver(msgspec.Struct, frozen=True):
    """A worker that is outdated was given the time to become ready all the same."""

    slot: Slot
    worker: WorkerProcess


class Signalled(msgspec.Struct, frozen=True):
    """The supervisor was asked to stop."""

    number: int


SupervisorEvent: TypeAlias = WorkerEvent | FilesChanged | DelayOver | PatienceOver | Signalled
