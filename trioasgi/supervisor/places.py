"""What the supervisor keeps for each worker's place, its states, and the events that it acts on."""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

import msgspec
import trio

from .process import WorkerEvent, WorkerProcess
from .watcher import FilesChanged


class Place(Enum):
    """What a slot is doing."""

    STARTING = "starting"
    """Its worker is on the way."""
    SERVING = "serving"
    """Its worker accepts connections."""
    RESTING = "resting"
    """Its worker is gone; the next starts after a delay."""
    WAITING = "waiting"
    """Its worker could not start beside its predecessor, which may have what it needs (a port, a lock): it is
    tried again when that has gone."""
    VACANT = "vacant"
    """Its worker is gone, and another would end as it did: only a change can help."""


class Course(Enum):
    """What the supervisor is doing; it only ever moves down this list."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Workers drain; over when the last has ended."""
    ABORTED = "aborted"
    """Whatever still runs is killed."""


class Slot(msgspec.Struct, eq=False):
    """A worker's place, kept across restarts."""

    place: Place = Place.VACANT
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
    rest: trio.CancelScope | None = None


class RestOver(msgspec.Struct, frozen=True):
    """The delay before a slot's next worker has passed."""

    slot: Slot
    rest: trio.CancelScope


class PatienceOver(msgspec.Struct, frozen=True):
    """A worker that is outdated was given the time to become ready all the same."""

    slot: Slot
    worker: WorkerProcess


class Signalled(msgspec.Struct, frozen=True):
    """The supervisor was asked to stop."""

    number: int


Event: TypeAlias = WorkerEvent | FilesChanged | RestOver | PatienceOver | Signalled
