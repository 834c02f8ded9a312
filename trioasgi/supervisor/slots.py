"""The slots of the workers, the state of the supervisor, and the events that it handles.

A slot has one worker at a time, and gets the next one when that has ended. A successor may start beside the
worker, which then serves until it is ready. A replaced worker drains beside the one that has taken its place.
Both belong to the slot, but the state of the slot is that of its worker. While the supervisor stops, no slot
gets a worker, and the states of slots have no meaning.

The supervisor runs until a signal, or until no worker can be started. Then it stops. That ends when the last
worker has ended, or at a second signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias

import msgspec
import trio

from .sources import SourcesChanged
from .watcher import FilesChanged
from .worker_process import WorkerEvent, WorkerProcess

MOST_LEAVING = 3
"""So many replaced workers of a slot may be draining. Then a roll waits, and so does the successor of a
worker that is due. A change of files does not wait: it has the oldest killed.
"""


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
        SlotState.DELAYED: "another slot's worker is ready, or a canary starts",
    },
    SlotState.STARTING: {
        SlotState.SERVING: "its worker is ready",
        SlotState.STARTING: "its worker is replaced, or leaves for a good reason",
        SlotState.DELAYED: "its worker has failed, and another may not",
        SlotState.WAITING: "its worker has failed beside its predecessor",
        SlotState.VACANT: "its worker has failed, and so would another",
    },
    SlotState.SERVING: {
        SlotState.STARTING: "its worker is replaced, leaves for a good reason, or was killed from outside",
        SlotState.SERVING: "its worker's successor is ready",
        SlotState.DELAYED: "its worker has crashed",
    },
    SlotState.DELAYED: {
        SlotState.STARTING: "the delay is over, or files have changed",
        SlotState.SERVING: "a canary is ready",
    },
    SlotState.WAITING: {
        SlotState.STARTING: "the predecessor is gone, or files have changed",
        SlotState.SERVING: "a canary is ready",
    },
}
"""For each state those that may follow, and when they do."""


class SupervisorState(Enum):
    """The state of the supervisor."""

    RUNNING = "running"
    STOPPING = "stopping"
    """The workers drain. It ends when the last one has ended."""
    CUTTING = "cutting"
    """Workers have a moment to reset the connections of requests under way. Those of a killed process end
    in good order, and a client could take a cut response for a whole one.
    """
    ABORTED = "aborted"
    """Workers that still run are killed."""


SUPERVISOR_TRANSITIONS: Mapping[SupervisorState, Mapping[SupervisorState, str]] = {
    SupervisorState.RUNNING: {SupervisorState.STOPPING: "a signal, or no worker can be started"},
    SupervisorState.STOPPING: {SupervisorState.CUTTING: "a second signal"},
    SupervisorState.CUTTING: {SupervisorState.ABORTED: "the moment is over, or a third signal"},
    SupervisorState.ABORTED: {},
}


class Slot(msgspec.Struct, eq=False):
    """What the supervisor keeps for one worker and its successors."""

    number: int
    """From 1 on, for users."""
    state: SlotState = SlotState.VACANT
    worker: WorkerProcess | None = None
    successor: WorkerProcess | None = None
    """It starts beside the worker, and takes its place when it is ready."""
    due: WorkerProcess | None = None
    """The last worker that has reached a limit, and was to be replaced."""
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
    """The scope of the delay before the next worker or successor. If it is cancelled, no DelayOver comes."""

    @property
    def is_due(self) -> bool:
        """Is the worker to be replaced, because it has reached a limit?"""
        return self.worker is not None and self.worker is self.due

    @property
    def wants_successor(self) -> bool:
        """Is its worker due, and may a successor start now?"""
        return (
            self.is_due
            and self.state is SlotState.SERVING
            and self.successor is None
            and self.delay is None
            and not self.is_crowded
        )

    @property
    def is_crowded(self) -> bool:
        """Are so many of its earlier workers still draining that no other should be replaced yet? Each of
        them has its grace, and occupies memory until then.
        """
        return len(self.leaving) >= MOST_LEAVING

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


class StandbyWanted(msgspec.Struct, frozen=True):
    """The delay after the failure of a standby has passed."""


class StopgapWanted(msgspec.Struct, frozen=True):
    """No slot has served for a while, for this reason."""

    scope: trio.CancelScope
    breakage: str


class ProbesOver(msgspec.Struct, frozen=True):
    """The probes of a worker have passed, or not: then `failure` says why."""

    worker: WorkerProcess
    failure: str | None


class Signalled(msgspec.Struct, frozen=True):
    """This process has got a signal."""

    number: int


class RollWanted(msgspec.Struct, frozen=True):
    """All workers are to be replaced. `promise` is told how that ends."""

    promise: Promise


class ScaleWanted(msgspec.Struct, frozen=True):
    """There are to be so many workers, at least one. `promise` is told when they are being started or
    stopped.
    """

    workers: int
    promise: Promise


class StopWanted(msgspec.Struct, frozen=True):
    """The supervisor is to stop, for this reason. It may be asked for again."""

    reason: str
    grace: float | None = None
    """Seconds that requests have, in place of the option. While it stops they can only get fewer."""


class LastDrainDue(msgspec.Struct, frozen=True):
    """While everything stops: workers that serve have waited long enough for those that do not."""


class CutOver(msgspec.Struct, frozen=True):
    """The workers have had their moment."""


class LogsRotated(msgspec.Struct, frozen=True):
    """All processes are to open their log files anew. `promise` is told when the workers know."""

    promise: Promise


class Promise:
    """The end of something that was asked for."""

    def __init__(self) -> None:
        self._kept = trio.Event()
        self._failure: str | None = None

    def keep(self, failure: str | None = None) -> None:
        """It has ended; `failure` says why it was not done. Only the first call counts."""
        if not self._kept.is_set():
            self._failure = failure
            self._kept.set()

    async def wait(self) -> str | None:
        """Wait for its end. Return why it was not done, or None if it was."""
        await self._kept.wait()
        return self._failure


SupervisorEvent: TypeAlias = (
    WorkerEvent
    | FilesChanged
    | SourcesChanged
    | DelayOver
    | PatienceOver
    | StandbyWanted
    | StopgapWanted
    | ProbesOver
    | Signalled
    | RollWanted
    | ScaleWanted
    | StopWanted
    | LastDrainDue
    | CutOver
    | LogsRotated
)
