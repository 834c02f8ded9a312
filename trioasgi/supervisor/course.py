"""How far the supervisor has come, and the exit status that this leads to."""

from __future__ import annotations

from trioasgi.errors import ExitStatus

from .slots import SUPERVISOR_TRANSITIONS, SupervisorState
from .worker_process import WorkerProcess


class Course:
    """The state of a supervisor."""

    def __init__(self) -> None:
        self.state = SupervisorState.RUNNING
        self.status = ExitStatus.OK
        """The exit status, as far as it is known."""

    @property
    def is_running(self) -> bool:
        """Does it neither stop nor end?"""
        return self.state is SupervisorState.RUNNING

    def enter(self, state: SupervisorState, status: ExitStatus) -> None:
        """Change the state. A change that is not in the table is a bug of the supervisor."""
        assert state in SUPERVISOR_TRANSITIONS[self.state], (self.state, state)
        self.state = state
        self.status = status

    def note_end(self, worker: WorkerProcess) -> None:
        """A worker has ended while everything stops. Only if it has ended by itself, and without cutting
        requests, is the stop clean.
        """
        if worker.end.is_bad(was_ready=worker.ready_at is not None) and self.status is ExitStatus.OK:
            self.status = ExitStatus.FAILED
