"""The slots of the workers, the state of the supervisor, and the events that it handles.

A slot has one worker at a time, and gets the next one when that has ended. A replaced worker drains beside
its successor. It still belongs to the slot, but the state of the slot is that of the successor. While the
supervisor stops, no slot gets a worker, and the states of slots have no meaning.

The supervisor runs until a signal, or until no worker can be started. Then it stops. That ends when the last
worker has ended, or at a second signal.
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
    """The state of a slot."""

    STARTING = "starting"
    """Its worker starts."""
    SERVING = "serving"
    """Its worker accepts connections."""
    DELAYED = "delayed"
    """Its worker has ended. The next one starts after a delay."""
    WAITING = "waiting"
    """Its worker could not start beside its predecessor, which may hold what it needs, such as a port or a
    lock. Another one starts when the predecessor has ended.
    """
    VACANT = "vacant"
    """It has no worker yet, or its worker has failed and another would fail too. It waits for a change of
    files.
    """


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
    """The state of the supervisor."""

    RUNNING = "running"
    STOPPING = "stopping"
    """The workers drain. It ends when the last one has ended."""
    ABORTED = "aborted"
    """Workers that still run are killed."""


SUPERVISOR_TRANSITIONS: Mapping[SupervisorState, Mapping[SupervisorState, str]] = {
    SupervisorState.RUNNING: {SupervisorState.STOPPING: "a signal, or no worker can be started"},
    SupervisorState.STOPPING: {SupervisorState.ABORTED: "a second signal"},
    SupervisorState.ABORTED: {},
}


class Slot(msgspec.Struct, eq=False):
    """What the supervisor keeps for one worker and its successors."""

    state: SlotState = SlotState.VACANT
    worker: WorkerProcess | None = None
    leaving: list[WorkerProcess] = msgspec.field(default_factory=list)
    """Earlier workers that are still draining, the oldest first."""
    crashes: int = 0
    """Unexpected ends in a row, each soon after the last."""
    false_starts: int = 0
    """Ends in a row before a worker was ready."""
    given_up: int = 0
    """Workers in a row that a change of files has replaced before they were ready."""
    is_outdated: bool = False
    """Have files changed since the worker was started, which may still become ready?"""
    delay: trio.CancelScope | None = None
    """The scope of the delay. If it is cancelled, no DelayOver comes."""

    def enter(self, state: SlotState) -> None:
        """Change the state. A change that is not in the table is a bug of the supervisor."""
        assert state in SLOT_TRANSITIONS[self.state], (self.state, state)
        self.state = state


class DelayOver(msgspec.Struct, frozen=True):
    """The delay before a slot's next worker has passed."""

    slot: Slot
    scope: trio.CancelScope


class PatienceOver(msgspec.Struct, frozen=True):
    """The time in which an outdated worker could become ready has passed."""

    slot: Slot
    worker: WorkerProcess


class Signalled(msgspec.Struct, frozen=True):
    """The supervisor was asked to stop."""

    number: int


SupervisorEvent: TypeAlias = WorkerEvent | FilesChanged | DelayOver | PatienceOver | Signalled
