"""The readiness hub: one epoll set for all connections of a worker.

Trio registers a socket anew for each wait (EPOLLONESHOT: one `epoll_ctl` each). The hub registers it once,
edge-triggered and with EPOLLRDHUP, in an epoll set of its own, and looks at that set when it has events
(`net.looking`). So a batch of ready connections costs one wake-up. And the hub notices a hang-up while the
application runs, without a task that watches for it.

The hub is also the worker's clock. A deadline is a number, and counts while a task waits for it. When the
earliest has come, one task compares all of them with the time (`net.ticker`). It rests until then, so an idle
server does not wake at all.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import sys
from threading import get_ident
from typing import TYPE_CHECKING, Final, Protocol

import trio

from trioasgi.net.home import check_home
from trioasgi.net.looking import keep_looking
from trioasgi.net.ticker import Ticker
from trioasgi.tasks import ki_protected, report_started, start_soon

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("trioasgi")

_MAX_EVENTS: Final = 512

if sys.platform == "linux":
    INTEREST: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
    INTEREST_IN_ROOM: Final = INTEREST | select.EPOLLOUT


class HoldsBack(Protocol):
    """A channel that holds bytes back until all tasks that can run now have run."""

    def uncork(self) -> None:
        """Send the bytes that are held back."""

    def abort(self) -> None:
        """Close the socket at once, with a reset."""


class Watched(Protocol):
    """A stream whose socket is registered. Its deadlines are in seconds of `trio.current_time()`.

    Where a wait begins, the stream compares its deadline with `Hub.ticker.earliest`, and notes it if it comes
    before. So does whoever sets an earlier one for a wait that is under way.
    """

    reader: trio.lowlevel.Task | None
    """The task that waits to read. `read_deadline` may stay set when there is none."""
    read_deadline: float
    write_deadline: float
    """`math.inf` while no task waits to write."""
    watches_room: bool
    """Has it called `Hub.watch_room`?"""

    def on_event(self, flags: int) -> None:
        """Handle an event of the socket; `flags` are epoll's."""

    def on_deadline(self, now: float) -> None:
        """End the waits whose deadline has come by `now`."""

    def drop(self) -> None:
        """Close the socket at once, with a reset: a peer cannot take a cut response for a whole one. Tell of
        that as of the peer's hang-up.
        """


def supported() -> bool:
    """Does this platform have epoll? Without it, connections use plain Trio streams."""
    return sys.platform == "linux"


class Hub:
    """Registers streams once and wakes their tasks.

    `run()` must be running in the same Trio run, or no wait ends. It is shielded, and only `stop()` ends it:
    the hub must live longer than the tasks that it wakes, even if all are cancelled together. At its end it
    closes all streams, and that ends their waits.
    """

    _poll: Callable[[float, int], list[tuple[int, int]]]

    def __init__(self) -> None:
        self._streams: dict[int, Watched] = {}
        self._new: dict[int, int] = {}  # those of which epoll does not know yet, for how many more rounds
        self._corked: list[HoldsBack] = []
        self._flusher: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope(shield=True)
        self._home = trio.lowlevel.current_trio_token()
        self.thread = get_ident()
        """The thread of this Trio run, for a look that costs less than `check_home`."""
        self.ticker = Ticker()
        self.current_time = trio.lowlevel.current_clock().current_time
        """The same as `trio.current_time`, which would look up the run's clock at each call."""
        if sys.platform == "linux":
            self._epoll = select.epoll()
            self._poll = self._epoll.poll

    def register(self, fd: int, stream: Watched, *, at_once: bool = False) -> None:
        """Call `stream` for each event of `fd`, until `unregister`. Room to send is none before `watch_room`.

        Unless `at_once`, epoll learns of it when the task of the new connection has run: many connections are
        over by then, as their request had arrived and was answered at once. Events that came before are told
        then. If epoll has no room for another socket, this raises OSError, or the stream is reset later: its
        response may have begun.
        """
        if not at_once:
            self._new[fd] = 2
            self._wake_flusher()
        elif sys.platform == "linux":
            self._epoll.register(fd, INTEREST)
        if self._streams.setdefault(fd, stream) is not stream:
            self._replace(fd, stream, at_once=at_once)

    def register_listener(self, fd: int, listener: Watched) -> None:
        """Call `listener` in each round of the scheduler in which connections wait, until `unregister`.

        Raises OSError if epoll has no room for it.
        """
        if sys.platform == "linux":
            # Not edge-triggered: it may leave some for the next round.
            self._epoll.register(fd, select.EPOLLIN)
        if self._streams.setdefault(fd, listener) is not listener:
            self._replace(fd, listener, at_once=True)

    def _replace(self, fd: int, stream: Watched, *, at_once: bool) -> None:
        """Note `stream` in place of one that has had the number, which ends: other code has closed its
        descriptor, else the kernel would not have given the number again.
        """
        robbed, self._streams[fd] = self._streams[fd], stream
        if at_once:
            self._new.pop(fd, None)  # it was that one's
        _close_anyway(robbed.drop)

    def watch_room(self, fd: int) -> None:
        """Tell of room in the kernel's send buffer as well, also if there is some already.

        Few streams have to wait for it. With EPOLLOUT from the beginning, each would be told at once that
        there is room, and once more when its peer acknowledges the end. Over TLS, a connection with one
        request would take two rounds of the scheduler more.
        """
        if sys.platform == "linux" and fd not in self._new:
            self._epoll.modify(fd, INTEREST_IN_ROOM)

    def has(self, fd: int, stream: Watched) -> bool:
        """Is `stream` registered with `fd`? Not if the number is another stream's by now."""
        return self._streams.get(fd) is stream

    def unregister(self, fd: int, stream: Watched) -> None:
        """Forget `fd`. Call this before closing it, because the number may then be given to another file.

        Raises OSError if other code has closed it.
        """
        if self._streams.get(fd) is not stream:
            raise OSError(errno.EBADF, "its number is that of another connection")
        del self._streams[fd]
        if fd in self._new:
            del self._new[fd]
        elif sys.platform == "linux" and not self._epoll.closed:
            self._epoll.unregister(fd)

    def disown(self, fd: int) -> None:
        """Forget `fd`, which is another file's by now: `unregister` raises then, and that must stay open."""
        del self._streams[fd]
        self._new.pop(fd, None)

    def flush_soon(self, stream: HoldsBack) -> None:
        """Call `stream.uncork()` once all tasks that can run now have run."""
        self._corked.append(stream)
        self._wake_flusher()

    def check_home(self) -> None:
        """Raise RuntimeError in any other thread than the hub's: no task can be woken there."""
        check_home(self._home)

    def _wake_flusher(self) -> None:
        flusher = self._flusher
        if flusher is not None:
            self.check_home()
            self._flusher = None
            trio.lowlevel.reschedule(flusher)

    @ki_protected  # the nursery that it opens must end
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Dispatch readiness and deadlines until `stop()`."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    start_soon(nursery, self._dispatch)
                    start_soon(nursery, self._flush)
                    start_soon(nursery, self.ticker.run, self._look_at_deadlines)
                    report_started(task_status)
        finally:
            self._close()

    def stop(self) -> None:
        """End `run()`."""
        self._scope.cancel()

    @ki_protected  # without it, all waits would fail in the middle of a Ctrl-C
    async def _dispatch(self) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the readiness hub needs epoll")
        await keep_looking(self._epoll.fileno(), self._look)

    def _look(self) -> None:
        """Hand all events of the epoll set to their streams."""
        streams = self._streams
        for ready, flags in self._poll(0, _MAX_EVENTS):
            stream = streams.get(ready)
            if stream is not None:  # an earlier event of this batch may have closed it
                try:
                    stream.on_event(flags)
                except Exception:  # noqa: BLE001 - it is logged
                    self._end(stream.drop)

    @ki_protected
    async def _flush(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._corked and not self._new:
                self._flusher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            self._uncork_all()
            if self._new:
                self._watch_new()
                await trio.lowlevel.checkpoint()

    def _watch_new(self) -> None:
        """Have epoll tell of the new streams that are still open after two rounds. This runs once in each.

        A stream's task may have been started in this round. It runs in the next one, perhaps behind this
        task, and so has run in the round after that.
        """
        for fd, rounds in tuple(self._new.items()):
            if rounds:
                self._new[fd] = rounds - 1
                continue
            stream = self._streams[fd]
            try:
                if sys.platform == "linux":
                    self._epoll.register(fd, INTEREST_IN_ROOM if stream.watches_room else INTEREST)
            except OSError as exc:
                logger.warning("a connection could not be served: %s", exc)
                _close_anyway(stream.drop)
            else:
                del self._new[fd]

    def _uncork_all(self) -> None:
        # A function of its own: in `_flush`, the loop variable would keep the last stream alive during the
        # wait.
        corked, self._corked = self._corked, []
        for stream in corked:
            try:
                stream.uncork()
            except Exception:  # noqa: BLE001 - it is logged
                self._end(stream.abort)

    def _look_at_deadlines(self, now: float) -> float:
        """End the waits whose deadline has come by `now`. Return the earliest deadline of the others."""
        earliest = math.inf
        for stream in tuple(self._streams.values()):
            # Compared here, without a call for each stream: few deadlines have passed.
            if stream.read_deadline <= now or stream.write_deadline <= now:
                try:
                    stream.on_deadline(now)
                except Exception:  # noqa: BLE001 - it is logged
                    self._end(stream.drop)
            if stream.read_deadline < earliest and stream.reader is not None:
                earliest = stream.read_deadline
            if stream.write_deadline < earliest:
                earliest = stream.write_deadline
        return earliest

    def _end(self, close: Callable[[], None]) -> None:
        """A stream has failed while no task of its own ran. Close it: the others must go on."""
        logger.exception("a connection is closed, because the server has failed")
        _close_anyway(close)

    def _close(self) -> None:
        for stream in tuple(self._streams.values()):
            _close_anyway(stream.drop)
        if sys.platform == "linux":
            trio.lowlevel.notify_closing(self._epoll)
            self._epoll.close()


def _close_anyway(close: Callable[[], None]) -> None:
    """Close a stream. What it tells of that may fail."""
    try:
        close()
    except Exception:
        logger.exception("the end of a connection could not be told")
