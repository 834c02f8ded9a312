"""Describes a supervisor and its workers, in the terms of `status.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from .status import RollStatus, Status, WorkerStatus
from .workers import iter_workers

if TYPE_CHECKING:
    from .roll import Roll
    from .slots import Slot
    from .supervisor import Supervisor
    from .worker_process import WorkerProcess
    from .workers import Workers


def worker_statuses(workers: Workers) -> list[WorkerStatus]:
    """All workers, and the slots that have none; ordered by slot, at the end those without one."""
    placed = list(iter_workers(workers))
    found = [_of_worker(worker, number) for number, worker in placed]
    found += _vacancies(workers.slots)
    found.sort(key=lambda status: status.slot or 0)
    in_slots = {worker for _, worker in placed}
    others = [worker for worker in workers.living if worker not in in_slots]
    return found + [_of_worker(worker, None) for worker in sorted(others, key=lambda each: each.pid or 0)]


def _vacancies(slots: list[Slot]) -> Iterator[WorkerStatus]:
    for slot in slots:
        if slot.worker is None and slot.successor is None:
            yield WorkerStatus(slot=slot.number, state=slot.state.value)


def _of_worker(worker: WorkerProcess, slot: int | None) -> WorkerStatus:
    now = trio.current_time()
    heart = worker.heartbeat
    return WorkerStatus(
        slot=slot,
        pid=worker.pid,
        state=worker.state.value,
        age=now - worker.begun_at,
        ready_for=None if worker.ready_at is None else now - worker.ready_at,
        requests=heart.requests,
        calls=heart.calls,
        connections=heart.connections,
        lag=heart.lag,
        rss=heart.rss,
    )


def roll_status(roll: Roll | None) -> RollStatus | None:
    """How far it is, or how it has ended."""
    if roll is None:
        return None
    return RollStatus(state=roll.state.value, since=trio.current_time() - roll.since, failure=roll.failure)


def supervisor_status(supervisor: Supervisor, *, version: str, pid: int, urls: list[str]) -> Status:
    """Everything that `trioasgi status` shows."""
    return Status(
        version=version,
        pid=pid,
        state=supervisor.state.value,
        app=supervisor.app,
        urls=urls,
        slots=len(supervisor.workers.slots),
        workers=worker_statuses(supervisor.workers),
        roll=roll_status(supervisor.roll),
    )
