"""The readiness hub: one epoll set for all the connections of a worker.

Trio arms its epoll set anew for every single wait (EPOLLONESHOT: one `epoll_ctl` each), and wakes one task a
wait. Here a socket is registered once, edge-triggered and with EPOLLRDHUP, in a set of the worker's own; one
task waits with `trio.lowlevel.wait_readable` until that set has something to tell. A batch of ready
connections thus costs one wake-up, and a peer that hangs up is noticed while its application runs, with no
task to watch for it.

The hub is also the worker's one clock: a wait has a deadline as a plain number, and one task looks through
them a few times a second.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

TICK: Final = 0.25
"""Seconds between two looks at the deadlines: how late a time-out may come."""

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

    `run()` must be running in the same trio run for waits to end. It is shielded, and ends by `stop()`:
    whoever wakes others has to live longer than they do, also where all are cancelled together. When it ends,
    so do all streams, and whoever waits for one of them.
    """

    def __init__(self) -> None:
        self._streams: dict[int, Watched] = {}
        self._corked: list[HoldsBack] = []
        self._flusher: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope(shield=True)
        self.current_time = trio.lowlevel.current_clock().current_time
        """As `trio.current_time`, without the way to the run's clock."""
        if sys.platform == "linux":
            self._epoll = select.epoll()

    def register(self, fd: int, stream: Watched) -> None:
        """Watch `fd` for the rest of its life on behalf of `stream`."""
        if sys.platform == "linux":
            self._epoll.register(fd, INTEREST)
        self._streams[fd] = stream

    def unregister(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed, lest its number be another's by then."""
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
        prompt = _Prompt(task, self._look)
        trio.lowlevel.add_instrument(prompt)
        try:
            while True:
                task.custom_sleep_data = prompt
                await trio.lowlevel.wait_readable(fd)
                prompt.expect_looked()
        finally:
            trio.lowlevel.remove_instrument(prompt)

    def _look(self) -> None:
        """Wake whoever waits for what has become ready."""
        if sys.platform != "linux":
            raise RuntimeError("the readiness hub needs epoll")
        streams = self._streams
        for ready, flags in self._epoll.poll(0, _MAX_EVENTS):
            stream = streams.get(ready)
            if stream is not None:
                stream.on_event(flags)

    async def _flush(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._corked:
                self._flusher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            corked, self._corked = self._corked, []
            for stream in corked:
                stream.uncork()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            for stream in self._streams.values():
                # Asked here, as of ten thousand connections hardly any is ever late.
                if stream.read_deadline <= now or stream.write_deadline <= now:
                    stream.on_deadline(now)

    def _close(self) -> None:
        for stream in tuple(self._streams.values()):
            stream.close()
        if sys.platform == "linux":
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


class _Prompt(trio.abc.Instrument):
    """Calls `look` as soon as `task` has been rescheduled, without waiting for the task's turn.

    What `look` reschedules runs in the same round of the scheduler then, and not in the next, before which
    trio would ask its own epoll set again: of the three `epoll_wait` that a lone request costs, one.
    """

    def __init__(self, task: trio.lowlevel.Task, look: Callable[[], None]) -> None:
        self._task = task
        self._look = look
        self._looked = False
        self._failure: BaseException | None = None

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - the signature is trio's
        """Look, if the task has been woken: trio takes `custom_sleep_data` from a task it reschedules."""
        if self._task.custom_sleep_data is None:
            self._looked = True
            try:
                self._look()
            except BaseException as exc:  # noqa: BLE001 - trio would log it, and go on without us
                self._failure = exc

    def expect_looked(self) -> None:
        """For the task, when its turn has come: raise what went wrong, and look if nobody has."""
        if self._failure is not None:
            raise self._failure
        if not self._looked:
            self._look()
        self._looked = False
