"""The rolls of a supervisor: one at a time, and the probes of the workers that they start.

A roll that is asked for while another one is with its canary takes its place: the config of that canary may
be what has to be mended. Later on it follows when the other one is over. So it does when several have taken
the place of another already: otherwise somebody who asks again and again would keep all of them from ending.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from trioasgi.tasks import start_soon

from .roll import Roll
from .slots import ProbesOver, Promise, SupervisorEvent
from .smoke import probe
from .worker_state import WorkerState
from .workers import Workers, name_of

if TYPE_CHECKING:
    from trioasgi.config import Config

    from .worker_process import WorkerProcess

logger = logging.getLogger("trioasgi")

_MOST_ABANDONED = 2
"""So many rolls in a row are given up for the next one."""


class Rolls:
    """Begins and steers rolls. `read_options` reads the options anew, or says why they cannot be used.
    `adopt` is called with those of a roll when its canary is ready.
    """

    def __init__(
        self,
        workers: Workers,
        post: Callable[[SupervisorEvent], None],
        *,
        read_options: Callable[[], Config | str],
        adopt: Callable[[Config], None],
    ) -> None:
        self.last: Roll | None = None
        """The last one, which may be over."""
        self._workers = workers
        self._post = post
        self._read_options = read_options
        self._adopt = adopt
        self._abandoned = 0
        """Rolls in a row that another one has taken the place of."""
        self._waiting: list[Promise] = []
        """Those who wait for another roll, which begins when the one under way is over."""

    def open(self, nursery: trio.Nursery) -> None:
        """Probes run in `nursery`."""
        self._nursery = nursery

    @property
    def is_under_way(self) -> bool:
        """Is a roll under way?"""
        return self.last is not None and not self.last.is_over

    def begin(self, *promises: Promise) -> None:
        """Begin a roll, or note that another one is to follow. `promises` are kept at its end."""
        if self.last is None or self.last.is_over:
            self._abandoned = 0
        else:
            if not self.last.is_with_canary or self._abandoned >= _MOST_ABANDONED:
                logger.info("Another roll follows the one that is under way")
                self._waiting += promises
                return
            self._abandoned += 1
            promises += tuple(self.last.abandon())
        config = self._read_options()
        if isinstance(config, str):
            self.last = Roll(self._workers, self._workers.config, promises)
            self.last.refuse(config)
            return
        self.last = Roll(self._workers, config, promises, on_proven=partial(self._adopt, config))
        self.last.begin()

    def stop(self) -> None:
        """End the roll under way, and begin no other one, as the server stops."""
        reason = "the server stops"
        if self.last is not None:
            self.last.stop(reason)
        keep(self._waiting, reason)

    def follow_up(self) -> None:
        """Go on where something has ended for which a roll has waited. Called after each event."""
        if self._waiting and not self.is_under_way:
            promises, self._waiting = self._waiting, []
            self.begin(*promises)
        if self.last is not None:
            self.last.go_on_if_held_up()

    def take_scaled(self) -> None:
        """Slots were added or removed."""
        if self.last is not None:
            self.last.take_scaled()

    def tell(self, worker: WorkerProcess, failure: str | None) -> None:
        """A new worker is ready, or has failed."""
        if self.last is None or not self.last.awaits(worker):
            return
        if failure is None:
            self.last.take_ready()
        else:
            self.last.take_failure(failure)

    # Probes

    def take_waiting(self, worker: WorkerProcess) -> None:
        """The application of a worker has started, and it waits to be told to accept."""
        if worker.state is not WorkerState.WAITING:
            return  # it was given up meanwhile
        connections = worker.take_private()
        if connections:
            start_soon(self._nursery, self._bring_probes, worker, connections)
        else:
            worker.accept()

    async def _bring_probes(self, worker: WorkerProcess, connections: list[socket.socket]) -> None:
        config = worker.config
        self._post(ProbesOver(worker, await probe(connections, config.smoke, config.smoke_timeout)))

    def take_probes(self, worker: WorkerProcess, failure: str | None) -> None:
        """The probes of a worker are over."""
        if worker.state is not WorkerState.WAITING:
            return  # it was given up, or has ended: whoever did that, or its end, says so
        if failure is None:
            logger.info("%s has passed the probes", name_of(worker))
            worker.accept()
            return
        logger.error("%s has failed a probe (--smoke): %s", name_of(worker), failure)
        self._workers.give_up(worker)
        self.tell(worker, failure)


def keep(promises: Sequence[Promise], failure: str | None = None) -> None:
    """Keep all of them."""
    for promise in promises:
        promise.keep(failure)
