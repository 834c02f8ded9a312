"""A roll replaces all workers, one slot after the other, and loses no request.

The first one is the canary: it starts beside its predecessor, and must become ready, and answer the probes if
there are any, before anything else happens. If it fails, it is removed, and no worker is replaced. Only then
does its predecessor drain, and the roll goes on with the next slot.

::

    CANARY ─► REST ─► DONE
       └───────┴────► FAILED, STOPPED
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio

from .slots import Promise, Slot, SlotState
from .workers import Workers

if TYPE_CHECKING:
    from trioasgi.config import Config

    from .worker_process import WorkerProcess

logger = logging.getLogger("trioasgi")


class RollState(Enum):
    """How far a roll has come."""

    CANARY = "canary"
    """Its first worker starts."""
    REST = "rest"
    """The canary serves. The other slots follow."""
    DONE = "done"
    FAILED = "failed"
    """A new worker has failed. Those that were not replaced stay."""
    STOPPED = "stopped"
    """The supervisor stops, or another roll has taken its place."""


ROLL_TRANSITIONS: Final[Mapping[RollState, Mapping[RollState, str]]] = {
    RollState.CANARY: {
        RollState.REST: "the canary is ready",
        RollState.FAILED: "the canary has failed, or an option is wrong",
        RollState.STOPPED: "everything stops, or it was asked for again",
    },
    RollState.REST: {
        RollState.DONE: "every slot has a new worker",
        RollState.FAILED: "a new worker has failed",
        RollState.STOPPED: "everything stops",
    },
    RollState.DONE: {},
    RollState.FAILED: {},
    RollState.STOPPED: {},
}
"""For each state those that may follow, and when they do."""


class Roll:
    """One roll, to workers of `config`. The supervisor tells it of what happens to workers. At its end it
    keeps the `promises`. `on_proven` is called when the canary is ready, before anything else is replaced.
    """

    def __init__(
        self,
        workers: Workers,
        config: Config,
        promises: Sequence[Promise],
        on_proven: Callable[[], None] = lambda: None,
    ) -> None:
        self.state = RollState.CANARY
        self.since = trio.current_time()
        """When it has begun, or, when it is over, ended."""
        self.failure: str | None = None
        """Why it was not done."""
        self._promises = [*promises]
        self._on_proven = on_proven
        self._workers = workers
        self._config = config
        self._awaited: WorkerProcess | None = None
        self._is_held_up = False

    @property
    def is_over(self) -> bool:
        """Has it ended?"""
        return not ROLL_TRANSITIONS[self.state]

    @property
    def is_with_canary(self) -> bool:
        """Has it replaced no worker yet?"""
        return self.state is RollState.CANARY

    def begin(self) -> None:
        """Start the canary."""
        logger.info("Rolling: %d workers are replaced, one after the other", len(self._workers.slots))
        self._go_on()

    def awaits(self, worker: WorkerProcess) -> bool:
        """Is this the worker that must become ready for the roll to go on?"""
        return worker is self._awaited and not self.is_over

    def take_ready(self) -> None:
        """The awaited worker is ready."""
        if self.state is RollState.CANARY:
            self._enter(RollState.REST)
            self._workers.config = self._config
            self._workers.drop_standby()
            self._awaited = None
            self._on_proven()
        self._go_on()

    def refuse(self, reason: str) -> None:
        """End it before it begins."""
        self._enter(RollState.FAILED)
        self._end(reason)

    def take_failure(self, reason: str) -> None:
        """The awaited worker has failed before it was ready."""
        which = "its first worker" if self.state is RollState.CANARY else "a worker"
        rest = "no worker was replaced" if self.state is RollState.CANARY else "those not yet replaced stay"
        logger.error("The roll has failed, as %s could not start: %s", which, rest)
        self._enter(RollState.FAILED)
        self._end(reason)

    def stop(self, reason: str) -> None:
        """End it where it is."""
        if not self.is_over:
            self._enter(RollState.STOPPED)
            self._end(reason)

    def take_scaled(self) -> None:
        """Slots were added or removed, perhaps the one whose new worker is awaited."""
        worker = self._awaited
        if worker is not None and not (
            self._workers.slot_of(worker) or self._workers.slot_of_successor(worker)
        ):
            self._go_on()

    def go_on_if_held_up(self) -> None:
        """Go on, if it waits for replaced workers to end, or to stop accepting, and they have."""
        if self._is_held_up and not self.is_over:
            self._go_on()

    def abandon(self) -> list[Promise]:
        """End it and remove the canary, whose predecessor serves on. Return the promises of those who wait:
        they are for the roll that follows.
        """
        if self._awaited is not None:
            self._workers.give_up(self._awaited)
        promises, self._promises = self._promises, []
        self.stop("another roll was asked for")
        return promises

    def _go_on(self) -> None:
        slot = self._next_slot()
        if slot is None and self._may_an_old_one_accept():
            self._awaited = None
            self._is_held_up = True
            return
        if slot is None:
            self._enter(RollState.DONE)
            logger.info("Rolled: every worker is new")
            self._end(None)
            return
        if slot.is_crowded:
            self._awaited = None
            if not self._is_held_up:
                self._is_held_up = True
                logger.info("The roll waits until one of %d replaced workers has ended", len(slot.leaving))
            return
        self._is_held_up = False
        self._awaited = self._workers.succeed(slot, self._config, gated=bool(self._config.smoke))

    def _may_an_old_one_accept(self) -> bool:
        """Could a new connection still be answered by the code from before the roll?"""
        return any(worker.may_accept and worker.config is not self._config for worker in self._workers.living)

    def _next_slot(self) -> Slot | None:
        """A slot whose worker is not of the new config; one that serves before those that do not, and crowded
        ones last.
        """
        config = self._config
        old = [
            slot for slot in self._workers.slots if slot.worker is None or slot.worker.config is not config
        ]
        return min(old, key=lambda slot: (slot.is_crowded, slot.state is not SlotState.SERVING), default=None)

    def _enter(self, state: RollState) -> None:
        assert state in ROLL_TRANSITIONS[self.state], (self.state, state)
        self.state = state

    def _end(self, failure: str | None) -> None:
        self._awaited = None
        self.failure = failure
        self.since = trio.current_time()
        for promise in self._promises:
            promise.keep(failure)
