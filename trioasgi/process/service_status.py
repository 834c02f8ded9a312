"""Tells systemd what the supervisor does: each time that an event has changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioasgi.process.signals import is_hang_up
from trioasgi.supervisor.roll import RollState
from trioasgi.supervisor.slots import Signalled, SlotState, SupervisorEvent, SupervisorState

if TYPE_CHECKING:
    from trioasgi.process.notify import Notifier
    from trioasgi.supervisor.roll import Roll
    from trioasgi.supervisor.supervisor import Supervisor


_FAILED = "; the last reload has failed, see the log"


class ServiceStatus:
    """Watches the supervisor, and sends to the `notifier`. `take` is to be called after each event.

    RELOADING=1 follows each SIGHUP, also one that leads to nothing: `systemctl reload` waits for it, and for
    READY=1. `rolls`: does a SIGHUP begin a roll? (Not under `--reload`.)
    """

    def __init__(self, notifier: Notifier, *, rolls: bool) -> None:
        self._notifier = notifier
        self._rolls = rolls
        self._has_served = False
        self._is_reloading = False
        self._is_stopping = False
        self._roll: Roll | None = None
        self._remark = ""
        """How the last reload has ended."""

    def take(self, supervisor: Supervisor, event: SupervisorEvent) -> None:
        """Send what has changed."""
        if not self._notifier or self._is_stopping:
            return
        if supervisor.state is not SupervisorState.RUNNING:
            self._is_stopping = True
            self._notifier.stopping("Stopping: requests under way are finished")
        elif self._has_served:
            self._take_reload(supervisor, event)
        elif supervisor.workers.is_any_serving:
            self._has_served = True
            self._notifier.ready(_serving(supervisor))
        else:
            self._notifier.status(f"Starting: {_serving(supervisor)}")

    def _take_reload(self, supervisor: Supervisor, event: SupervisorEvent) -> None:
        status = _serving(supervisor)
        roll, is_new = supervisor.roll, supervisor.roll is not self._roll
        self._roll = roll
        if is_new or _is_hang_up(event):
            self._is_reloading = True
            # A signal that begins no roll has failed: the options could not be read.
            self._remark = _FAILED if self._rolls and not supervisor.is_rolling else ""
            self._notifier.reloading(f"Rolling: {status}")
        if supervisor.is_rolling:
            self._notifier.status(f"Rolling: {status}")
        elif self._is_reloading:
            self._is_reloading = False
            if roll is not None and roll.state is RollState.FAILED:
                self._remark = _FAILED
            self._notifier.ready(status + self._remark)
        else:
            self._notifier.status(status + self._remark)


def _is_hang_up(event: SupervisorEvent) -> bool:
    return isinstance(event, Signalled) and is_hang_up(event.number)


def _serving(supervisor: Supervisor) -> str:
    slots = supervisor.workers.slots
    serving = sum(slot.state is SlotState.SERVING for slot in slots)
    return f"{serving} of {len(slots)} workers serve"
