"""The workers of all slots: what is done to them. Why it is done is decided elsewhere (`supervisor.py`,
`respawn.py`, `renewal.py`, `roll.py`).

A standby is a worker without a slot. Under `reload` it has imported Python, Trio and this server, and waits
for its order: so a save costs only the application's own import. With `standby` its application has started,
and it waits to be told to accept: so a crash costs milliseconds.
"""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.tasks import start_soon

from .slots import MOST_LEAVING, DelayOver, Slot, SlotState, SupervisorEvent
from .worker_process import WorkerProcess
from .worker_state import WorkerState

if TYPE_CHECKING:
    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 30.0
_STABLE = 10.0
"""Seconds after which a worker that was ready is no longer counted as having crashed at once."""

_NEED: Final[Mapping[SlotState, int]] = {
    SlotState.VACANT: 0,  # first of all: nothing would come of it, if it were left alone
    SlotState.DELAYED: 1,
    SlotState.WAITING: 1,
    SlotState.STARTING: 2,
    SlotState.SERVING: 3,
}
"""How near the slots of a state are to serving: fewer workers first means those that are far from it."""


class Workers:
    """Starts, replaces and drains the workers of the slots, which accept from `sockets`.

    `config` is that of new workers. The other arguments are as for `WorkerProcess`.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        post: Callable[[SupervisorEvent], None],
        *,
        directory: str,
        terminal: int | None,
    ) -> None:
        self.config = config
        self.slots = [Slot(number) for number in range(1, config.workers + 1)]
        self.living: set[WorkerProcess] = set()
        """All whose process has not ended, a standby included."""
        self.standby: WorkerProcess | None = None
        self._removed: list[Slot] = []  # their workers still drain
        self._sockets = sockets
        self._post = post
        self._directory = directory
        self._terminal = terminal

    def start_all(self, nursery: trio.Nursery) -> None:
        """Start the first worker of each slot. All of them run in `nursery`."""
        self._nursery = nursery
        for slot in self.slots:
            self.start(slot)

    # Who is who

    def slot_of(self, worker: WorkerProcess) -> Slot | None:
        """The slot whose worker this is."""
        return next((slot for slot in self.slots if slot.worker is worker), None)

    def slot_of_successor(self, worker: WorkerProcess) -> Slot | None:
        """The slot for whose worker this is a successor."""
        return next((slot for slot in self.slots if slot.successor is worker), None)

    def slot_of_leaving(self, worker: WorkerProcess) -> Slot | None:
        """The slot from which this one is leaving."""
        return next((slot for slot in (*self.slots, *self._removed) if worker in slot.leaving), None)

    @property
    def is_any_serving(self) -> bool:
        """Does any slot serve?"""
        return any(slot.state is SlotState.SERVING for slot in self.slots)

    @property
    def are_all_vacant(self) -> bool:
        """Has no slot a worker, nor the prospect of one?"""
        return all(slot.state is SlotState.VACANT for slot in self.slots)

    @property
    def is_any_succeeding(self) -> bool:
        """Does a successor start in any slot?"""
        return any(slot.successor is not None for slot in self.slots)

    # Starting

    def start(self, slot: Slot) -> WorkerProcess:
        """Give the slot a new worker: the standby, if there is one that can be used."""
        self.cancel_delay(slot)
        slot.worker = worker = self._obtain(self.config, self._name(slot))
        slot.enter(SlotState.STARTING)
        slot.is_outdated = False
        return worker

    def start_later(self, slot: Slot) -> float:
        """Start the slot's next worker after a delay, which grows with each crash. Return the delay."""
        slot.enter(SlotState.DELAYED)
        return self.delay(slot)

    def delay(self, slot: Slot) -> float:
        """Post a DelayOver after the slot's delay, which grows each time. Return its seconds."""
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(slot.crashes, 10))
        slot.crashes += 1
        self.cancel_delay(slot)
        slot.delay = trio.CancelScope()
        start_soon(self._nursery, self._bring_end_of_delay, slot, slot.delay, delay)
        return delay

    async def _bring_end_of_delay(self, slot: Slot, scope: trio.CancelScope, delay: float) -> None:
        with scope:
            await trio.sleep(delay)
            self._post(DelayOver(slot, scope))

    def cancel_delay(self, slot: Slot) -> None:
        """Let no DelayOver come for this slot."""
        if slot.delay is not None:
            slot.delay.cancel()
            slot.delay = None

    def start_stopgap(self, breakage: str) -> WorkerProcess:
        """Start a worker without a slot, which shows `breakage` in place of the application."""
        return self._obtain(self.config, "stopgap", breakage=breakage)

    def _name(self, slot: Slot) -> str:
        """What a worker of the slot is called in the title of its process."""
        return f"worker {slot.number}"

    def _obtain(
        self,
        config: Config,
        name: str,
        *,
        gated: bool = False,
        is_successor: bool = False,
        breakage: str | None = None,
    ) -> WorkerProcess:
        standby = self.standby
        if standby is not None and not gated:
            if standby.state is WorkerState.STANDBY and standby.is_outdated:
                self.drop_standby()
            elif standby.state is WorkerState.STANDBY:
                self.standby = None
                standby.instruct(config, name=name, breakage=breakage)
                return standby
            if standby.state is WorkerState.WAITING and standby.config is config:
                self.standby = None
                standby.accept(name)
                return standby
        worker = self._make(config)
        self._instruct(worker, config, name, gated=gated, is_successor=is_successor, breakage=breakage)
        return worker

    def _instruct(
        self,
        worker: WorkerProcess,
        config: Config,
        name: str,
        *,
        gated: bool = False,
        is_successor: bool = False,
        breakage: str | None = None,
    ) -> None:
        """Give a new process its order. Under `reload` it may take any time to load the application: the next
        save replaces it. So it may where no other serves, unless it is a successor: a roll would never end.
        """
        is_timed = (is_successor or self.is_any_serving) and not config.reload
        worker.instruct(config, gated=gated, is_timed=is_timed, name=name, breakage=breakage)

    def limit_imports(self) -> None:
        """A worker serves: from now on the others must load the application in time too."""
        for worker in self.living:
            if worker.state is WorkerState.STARTING and not worker.config.reload:
                worker.limit_import()

    def _make(self, config: Config) -> WorkerProcess:
        worker = WorkerProcess(
            config, self._sockets, self._post, terminal=self._terminal, directory=self._directory
        )
        self.living.add(worker)
        start_soon(self._nursery, worker.start_and_wait)
        return worker

    def keep_standby(self) -> None:
        """Start a standby, if the options ask for one and there is none."""
        config = self.config
        if self.standby is None and (config.reload or config.standby):
            self.standby = self._make(config)
            if not config.reload:
                self._instruct(self.standby, config, "standby", gated=True)

    def drop_standby(self) -> None:
        """End the standby, whose order may be outdated."""
        standby, self.standby = self.standby, None
        if standby is not None:
            standby.drain()

    # Replacing

    def retire(self, slot: Slot, grace: float | None = None) -> None:
        """Drain the slot's worker, and its successor, if it has one. It has none then."""
        self.drop_successor(slot)
        if slot.worker is not None:
            slot.worker.drain(grace=grace)
            self.let_go(slot)

    def let_go(self, slot: Slot) -> None:
        """Note that the slot's worker leaves: it drains, now or when its successor is ready."""
        assert slot.worker is not None
        self._note_leaving(slot, slot.worker)
        slot.worker = None

    def _note_leaving(self, slot: Slot, worker: WorkerProcess) -> None:
        if slot.is_crowded and self.config.reload:
            slot.leaving[0].kill(f"was still draining when {MOST_LEAVING} more had to")
        slot.leaving.append(worker)

    def drain_leaving(self, slot: Slot) -> None:
        """Drain those that were let go while they served."""
        for worker in slot.leaving:
            if worker.state is not WorkerState.DRAINING:
                worker.drain()

    def succeed(self, slot: Slot, config: Config | None = None, *, gated: bool = False) -> WorkerProcess:
        """Start a successor beside the slot's worker, if there is one, until `take_over`. The slot goes on as
        if it had none: its worker serves, starts, or is to start after a delay. Return the successor.

        `gated`: it waits for `accept()` when its application has started.
        """
        self.drop_successor(slot)
        if slot.state is SlotState.VACANT:
            # Else all could be vacant, and everything stop, while the successor starts.
            self.start_later(slot)
        config = self.config if config is None else config
        slot.successor = self._obtain(config, self._name(slot), gated=gated, is_successor=True)
        return slot.successor

    def take_over(self, slot: Slot) -> None:
        """Let the slot's successor, which is ready, take the place of its worker, which drains."""
        assert slot.successor is not None
        self.cancel_delay(slot)
        successor, slot.successor = slot.successor, None
        if slot.worker is None or slot.worker.config is not successor.config:
            slot.crashes = 0  # of a roll, which may have mended what has crashed
        if slot.worker is not None:
            slot.worker.drain()
            self.let_go(slot)
        slot.worker = successor
        slot.is_outdated = False
        slot.enter(SlotState.SERVING)

    def promote(self, slot: Slot) -> bool:
        """Let the slot's successor, which still starts, take the place of a worker that is gone.

        False if there is none, or it is the canary of a roll: what its options do is not known yet, so the
        slot goes on as if it had none.
        """
        assert slot.worker is None
        if slot.successor is None or slot.successor.config is not self.config:
            return False
        slot.worker, slot.successor = slot.successor, None
        slot.enter(SlotState.STARTING)
        return True

    def give_up(self, successor: WorkerProcess) -> None:
        """End a worker that a roll has started as a successor. If it was promoted, another one starts."""
        slot = self.slot_of_successor(successor)
        if slot is not None:
            self.drop_successor(slot)
            return
        slot = self.slot_of(successor)
        if slot is not None and slot.state is SlotState.STARTING:
            self.retire(slot)
            self.start(slot)

    def drop_successor(self, slot: Slot) -> None:
        """End the slot's successor, if it has one. Its worker stays."""
        successor, slot.successor = slot.successor, None
        if successor is not None:
            successor.drain()
            self._note_leaving(slot, successor)

    # All together

    def scale(self, count: int) -> None:
        """Add slots, or remove those that are needed least, whose workers drain."""
        added = [Slot(number) for number in self._free_numbers(count - len(self.slots))]
        self.slots += added
        self.slots.sort(key=lambda slot: slot.number)
        for slot in added:
            self.start(slot)
        while len(self.slots) > count:
            slot = self._least_needed()
            self.slots.remove(slot)
            self.cancel_delay(slot)
            self.retire(slot)
            self._removed.append(slot)
        self.forget_removed()

    def _free_numbers(self, count: int) -> list[int]:
        """The lowest numbers that no slot has; none if `count` is negative."""
        taken = {slot.number for slot in self.slots}
        free = (number for number in itertools.count(1) if number not in taken)
        return list(itertools.islice(free, max(0, count)))

    def _least_needed(self) -> Slot:
        """The last of those that are furthest from serving; while all serve, of those with other options than
        new workers get, if there are any.
        """

        def need(slot: Slot) -> tuple[int, bool]:
            is_of_config = slot.worker is not None and slot.worker.config is self.config
            return _NEED[slot.state], slot.state is SlotState.SERVING and is_of_config

        return min(reversed(self.slots), key=need)

    def forget_removed(self) -> None:
        """Forget the removed slots whose workers have ended."""
        self._removed = [slot for slot in self._removed if slot.leaving]

    def cancel_delays(self) -> None:
        """Let no DelayOver come."""
        for slot in self.slots:
            self.cancel_delay(slot)

    def drain_all(self, grace: float | None) -> None:
        """Drain all workers, as everything stops. `grace` is as for `WorkerProcess.drain`."""
        for worker in self.living:
            worker.drain(final=True, grace=grace)


def has_been_stable(worker: WorkerProcess) -> bool:
    """Has it served for long enough, that its end is no sign of a fault in its start?"""
    return worker.ready_at is not None and trio.current_time() - worker.ready_at >= _STABLE


def name_of(worker: WorkerProcess) -> str:
    """As the beginning of a sentence."""
    return str(worker).capitalize()


def iter_workers(workers: Workers) -> Iterator[tuple[int, WorkerProcess]]:
    """Each worker with the number of its slot, from 1 on; the successors behind their predecessors."""
    for slot in workers.slots:
        for worker in (*slot.leaving, slot.worker, slot.successor):
            if worker is not None:
                yield slot.number, worker
