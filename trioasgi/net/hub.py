"""The readiness hub: one epoll set for all the connections of a worker.

Trio arms its epoll set anew for every wait (EPOLLONESHOT: one `epoll_ctl` each). Here a socket is registered
once, edge-triggered and with EPOLLRDHUP, in a set of the worker's own. One task waits with
`trio.lowlevel.wait_readable` until that set has something to tell. So a batch of ready connections costs one
wake-up, and a peer that hangs up is noticed while its application runs, without a task that watches for it.

The hub is also the worker's clock: the deadline of a wait is a number, and one task compares all of them with
the time, once a `TICK`.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

TICK: Final = 0.25
"""Seconds between two looks at the deadlines: a time-out comes so late at most."""

_MAX_EVENTS: Final = 512

if sys.platform == "linux":
    INTEREST: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class HoldsBack(Protocol):
    """What holds bytes back until the tasks that can run now have run."""

    def uncork(self) -> None:
        """Send what is held back."""


class Watched(Protocol):
    """A stream whose socket is registered. Its deadlines are in Trio's time."""

    read_deadline: float
    write_deadline: float

    def on_event(self, flags: int) -> None:
        """Take what epoll tells of the socket."""

    def on_deadline(self, now: float) -> None:
        """End the waits whose deadline has come by `now`."""

    def close(self) -> None:
        """Close the socket at once."""


def supported() -> bool:
    """Is there epoll here? Where not, connections use plain trio streams."""
    return sys.platform == "linux"


class Hub:
    """Registers streams once and wakes their tasks.

    Waits end only while `run()` is running, in the same trio run. It is shielded and ends by `stop()`: who
    wakes others must live longer than they do, also where all are cancelled together. When it ends, it closes
    all streams, which ends the waits for them.
    """

    _poll: Callable[[float, int], list[tuple[int, int]]]

    def __init__(self) -> None:
        self._streams: dict[int, Watched] = {}
        self._corked: list[HoldsBack] = []
        self._flusher: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope(shield=True)
        self.current_time = trio.lowlevel.current_clock().current_time
        """As `trio.current_time`, without looking up the run's clock."""
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._poll = self._epoll.poll

    def register(self, fd: int, stream: Watched) -> None:
        """Watch `fd` for the rest of its life on behalf of `stream`."""
        if sys.platform == "linux":
            self._epoll.register(fd, INTEREST)
        self._streams[fd] = stream

    def unregister(self, fd: int) -> None:
        """Forget `fd`. Call this before it is closed: then its number may be another's."""
        del self._streams[fd]
        if sys.platform == "linux" and not self._epoll.closed:
            self._epoll.unregister(fd)

    def flush_soon(self, stream: HoldsBack) -> None:
        """Have `stream` send what it holds back, once the tasks that can run now have run."""
        self._corked.append(stream)
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            trio.lowlevel.reschedule(flusher)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dispatch readiness and deadlines until `stop()`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._dispatch)
                    nursery.start_soon(self._flush)
                    nursery.start_soon(self._tick)
                    task_status.started()
        finally:
            self._close()

    def stop(self) -> None:
        """End `run()`."""
        self._scope.cancel()

    async def _dispatch(self) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the readiness hub needs epoll")
        fd = self._epoll.fileno()
        task = trio.lowlevel.current_task()
        early = _EarlyLook(task, self._look)
        trio.lowlevel.add_instrument(early)
        try:
            while True:
                task.custom_sleep_data = early
                await trio.lowlevel.wait_readable(fd)
                early.ensure()
        finally:
            trio.lowlevel.remove_instrument(early)

    def _look(self) -> None:
        """Wake whoever waits for what has become ready."""
        streams = self._streams
        for ready, flags in self._poll(0, _MAX_EVENTS):
            stream = streams.get(ready)
            if stream is not None:  # one that came before it may have closed it
                stream.on_event(flags)

    async def _flush(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._corked:
                self._flusher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self._uncork_all()

    def _uncork_all(self) -> None:
        # Not in the task's own frame: that would hold what was flushed last for as long as it sleeps.
        corked, self._corked = self._corked, []
        for stream in corked:
            stream.uncork()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for stream in self._streams.values():
                # Compared here, without a call: hardly any is ever late.
                if stream.read_deadline <= now or stream.write_deadline <= now:
                    stream.on_deadline(now)

    def _close(self) -> None:
        for stream in tuple(self._streams.values()):
            stream.close()
        if sys.platform == "linux":
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


class _EarlyLook(trio.abc.Instrument):
    """Calls `look` as soon as `task` has been rescheduled, without waiting for the task's turn.

    Trio asks its own epoll set before each round of its scheduler. Tasks that `look` wakes from here run in
    the round of `task`, and not in the next one. That saves one of the three epoll_wait calls of a lone
    request (test_a_task_that_the_hub_wakes_runs_in_the_hubs_own_round).

    Trio would log an exception of an instrument, and drop the instrument. So it is kept for the task to
    raise: the hub ends then, and closes its streams (test_a_failure_of_the_look_ends_the_hub_and_all_waits).
    """

    def __init__(self, task: trio.lowlevel.Task, look: Callable[[], None]) -> None:
        self._task = task
        self._look = look
        self._looked = False
        self._failure: BaseException | None = None

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is trio's
        """Look, if the task has been woken: trio takes `custom_sleep_data` from a task it reschedules.

        Else the kernel would be asked in every round (test_the_kernel_is_asked_only_once_the_hub_was_woken).
        """
        if self._task.custom_sleep_data is None:
            self._looked = True
            try:
                self._look()
            except BaseException as exc:  # noqa: BLE001 - the task raises it
                self._failure = exc

    def ensure(self) -> None:
        """For the task, when its turn has come: raise what went wrong, and look if nobody has."""
        if self._failure is not None:
            raise self._failure
        if not self._looked:
            self._look()
        self._looked = False
