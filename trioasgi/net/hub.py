"""The readiness hub: one epoll set for all the connections of a worker.

Trio arms its epoll set anew for every single wait (EPOLLONESHOT: one `epoll_ctl` each), and wakes one task a
wait. Here a socket is registered once, edge-triggered and with EPOLLRDHUP, in a set of the worker's own; one
task waits with `trio.lowlevel.wait_readable` until that set has something to tell, and reschedules the tasks
concerned. A batch of ready connections thus costs one wake-up, and a peer that hangs up is noticed while its
application runs, with no task to watch for it.

The hub is also the worker's one clock: a wait has a deadline as a plain number, and one task looks through
them a few times a second.
"""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from trioasgi.net.stream import HubStream

TICK: Final = 0.25
"""Seconds between two looks at the deadlines: how late a time-out may come."""

_MAX_EVENTS: Final = 512

if sys.platform == "linux":
    INTEREST: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


def supported() -> bool:
    """Is there epoll here? Where not, connections use plain trio streams."""
    return sys.platform == "linux"


class Hub:
    """Registers streams once and wakes their tasks.

    `run()` must be running in the same trio run for waits to end.
    """

    def __init__(self) -> None:
        self._streams: dict[int, HubStream] = {}
        self._corked: list[HubStream] = []
        self._flusher: trio.lowlevel.Task | None = None
        self.now = trio.current_time()
        if sys.platform == "linux":
            self._epoll = select.epoll()

    def register(self, fd: int, stream: HubStream) -> None:
        """Watch `fd` for the rest of its life on behalf of `stream`."""
        if sys.platform == "linux":
            self._epoll.register(fd, INTEREST)
        self._streams[fd] = stream

    def unregister(self, fd: int) -> None:
        """Forget `fd`; to be called before it is closed, lest its number be another's by then."""
        del self._streams[fd]
        if sys.platform == "linux" and not self._epoll.closed:
            self._epoll.unregister(fd)

    def flush_soon(self, stream: HubStream) -> None:
        """Have `stream` send what it holds back, once the tasks that can run now have run."""
        self._corked.append(stream)
        flusher, self._flusher = self._flusher, None
        if flusher is not None:
            trio.lowlevel.reschedule(flusher)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dispatch readiness and deadlines until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dispatch)
                nursery.start_soon(self._flush)
                nursery.start_soon(self._tick)
                task_status.started()
        finally:
            self._close()

    async def _dispatch(self) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the readiness hub needs epoll")
        epoll, streams = self._epoll, self._streams
        fd = epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(fd)
            self.now = trio.current_time()
            for ready, flags in epoll.poll(0, _MAX_EVENTS):
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
            self.now = now = trio.current_time()
            for stream in self._streams.values():
                stream.on_deadline(now)

    def _close(self) -> None:
        if sys.platform == "linux":
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()
