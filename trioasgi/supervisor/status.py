"""What a supervisor says of itself: the answer to `trioasgi status`, and what its handle shows a program."""

from __future__ import annotations

import msgspec


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, or a slot that has none at the moment. Its numbers are those of its last heartbeat."""

    slot: int | None = None
    """The number of its slot, from 1 on. None: it stands by, or its slot was removed."""
    pid: int | None = None
    state: str = ""
    """`standby`, `starting`, `waiting`, `ready`, `draining` or `ended`. Of a slot without a worker:
    `delayed`, `waiting` or `vacant`.
    """
    age: float | None = None
    """Seconds since it was told to start."""
    ready_for: float | None = None
    """Seconds since it became ready."""
    requests: int = 0
    """The calls of the application that have ended."""
    calls: int = 0
    """The calls of the application that are under way."""
    connections: int = 0
    lag: float = 0.0
    """Seconds that its loop was late."""
    rss: int = 0
    """Bytes of memory that it occupies; 0 if the system does not tell."""


class RollStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A roll that is under way, or the last one."""

    state: str = ""
    """`canary` or `rest` while it is under way, then `done`, `failed` or `stopped`."""
    since: float = 0.0
    """Seconds since it has begun, or, when it is over, ended."""
    failure: str | None = None
    """Why it was not done."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor and its workers. Another version may leave out what it does not know."""

    version: str = ""
    pid: int = 0
    state: str = ""
    """`running` or `stopping`."""
    app: str | None = None
    urls: list[str] = []
    slots: int = 0
    """How many workers there are to be."""
    workers: list[WorkerStatus] = []
    roll: RollStatus | None = None
