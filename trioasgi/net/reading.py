"""The reading half of a `HubChannel`: bytes, the end of the stream, and the peer's hang-up.

The hub's epoll set is edge-triggered: the kernel tells once that a socket has become readable, and not again
before more arrives. So this half remembers whether the kernel may hold bytes that were not read:

- An event sets READY. Nobody reads because of it, unless a task waits: unread bytes are back-pressure.
- A read that returned less than it asked for has emptied the socket (epoll(7)): DRAINED. The next read waits
  for an event, without a system call that can only fail.
- EPOLLRDHUP tells of the peer's end, also while nobody reads. So does a read that returns b"". No event comes
  after it, so HUNG_UP lasts: each read asks the kernel, which returns the last bytes, and then b"".

One task at a time may wait to read, and only in DRAINED. An event wakes it, or its deadline, an interruption
(`interrupt_read`), the close of this side, or a cancellation. Any number of tasks may wait for the hang-up.
"""

from __future__ import annotations

import math
import select
import sys
from enum import Enum
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import current_task, reschedule

from trioasgi.net.channel import CLOSED, READ_SIZE, STALLED_READ
from trioasgi.net.corking import CorkingChannel
from trioasgi.net.ticker import NEXT_TICK
from trioasgi.net.waiting import WaitingTasks, failed, tell, wait_again
from trioasgi.tasks import protect

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from trioasgi.net.hub import Hub


class ReadState(Enum):
    """What is known of the bytes that the kernel holds for us."""

    DRAINED = "there are none: an event tells of more"
    READY = "there may be some"
    HUNG_UP = "there may be some, and then the end: the peer sends no more"
    CLOSED = "this side has closed the socket"


TRANSITIONS: Final[Mapping[ReadState, frozenset[ReadState]]] = {
    # An event, or bytes that were given back.
    ReadState.DRAINED: frozenset({ReadState.READY, ReadState.HUNG_UP, ReadState.CLOSED}),
    # A short read; a read that returns b"", or an event.
    ReadState.READY: frozenset({ReadState.DRAINED, ReadState.HUNG_UP, ReadState.CLOSED}),
    ReadState.HUNG_UP: frozenset({ReadState.CLOSED}),
    ReadState.CLOSED: frozenset(),
}

_DRAINED: Final = ReadState.DRAINED
_READY: Final = ReadState.READY
_HUNG_UP: Final = ReadState.HUNG_UP
_CLOSED: Final = ReadState.CLOSED

if sys.platform == "linux":
    READ_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    HANG_UP_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
else:
    READ_EVENTS = HANG_UP_EVENTS = 0

BUSY_READING: Final = "another task is reading from this connection"


class ReadingHalf(CorkingChannel):
    """Reads from the socket `sock`.

    The writing half is a subclass of this one, because a class cannot have two bases with slots. It uses only
    the socket.
    """

    __slots__ = (
        "_callback",
        "_fd",
        "_given_back",
        "_hang_up_callback",
        "_read_state",
        "_sock",
        "_told",
        "_watchers",
        "hub",
        "interrupted",
        "read_deadline",
        "reader",
        "write_timeout",
    )

    read_deadline: float
    write_timeout: float

    def __init__(self, sock: socket.SocketType, hub: Hub) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.hub = hub
        self._read_state = _READY
        self.reader: trio.lowlevel.Task | None = None
        """The task that waits for bytes."""
        self._told: Any = None  # how a wait to read is aborted, once there was one (`net.waiting`)
        self._given_back = b""
        self._watchers: WaitingTasks | None = None  # wait for the hang-up
        self._callback: Callable[[], None] | None = None
        self._hang_up_callback: Callable[[], None] | None = None
        self.interrupted = 0
        """How often reads were interrupted. A task that has waited compares it with the number before."""
        self.read_deadline = math.inf

    # Events

    def _note_unattended(self) -> None:
        """Bytes have arrived, or the end, and nobody waits for them."""
        if self._read_state is _DRAINED:
            self._read_state = _READY
        if self._callback is not None:
            self._callback()

    def _note_hang_up(self) -> None:
        """The peer sends no more, or the connection is broken."""
        if self._read_state is _HUNG_UP or self._read_state is _CLOSED:
            return
        self._read_state = _HUNG_UP
        self.release_watchers()
        if self._hang_up_callback is not None:
            self._hang_up_callback()

    def _note_late_read(self) -> None:
        """The read deadline has passed: interrupt the read, or call back as for unattended bytes."""
        if self.reader is not None:
            self.interrupt_read()
        elif self._callback is not None:
            self._callback()

    def _close_reading(self) -> None:
        self._read_state = _CLOSED
        # They refer to this channel. Without that circle it is freed at once, and not by the garbage
        # collector.
        self._callback = self._hang_up_callback = self._told = None
        if self.reader is not None:
            self._end_read(ConnectionAbortedError, CLOSED)
        if self._watchers is not None:
            self.release_watchers()

    # Channel

    @property
    def hung_up(self) -> bool:
        return self._read_state is _HUNG_UP or self._read_state is _CLOSED

    @property
    def may_have_more(self) -> bool:
        return self._read_state is not _DRAINED

    def now(self) -> float:
        return self.hub.current_time()

    def receive_nowait(self) -> bytes | None:
        if self._read_state is _DRAINED or self._read_state is _CLOSED:
            return None
        return self._recv(READ_SIZE)

    async def receive(self, most: int = 0) -> bytes:
        """As `Channel.receive`. Returns at most so many bytes; 0: READ_SIZE."""
        while True:
            if self._read_state is _DRAINED:
                if self.reader is not None:
                    raise trio.BusyResourceError(BUSY_READING)
                if self.read_deadline < self.hub.ticker.earliest:
                    self.hub.ticker.note(self.read_deadline)
                interrupted = self.interrupted
                told = self._told or self._tell()
                if get_ident() != self.hub.thread:
                    self.hub.check_home()
                self.reader = current_task()
                await wait_again(told)
                if self.interrupted != interrupted:
                    # An event had woken us before. The bytes are for the next reader.
                    raise TimeoutError(STALLED_READ)
            elif self._read_state is _CLOSED:
                raise ConnectionAbortedError(CLOSED)
            data = self._recv(most or READ_SIZE)
            if data is not None:
                return data

    def _tell(self) -> Any:
        self._told = tell(self._abort_read)
        return self._told

    def _abort_read(self, _: object) -> trio.lowlevel.Abort:
        self.reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _recv(self, size: int) -> bytes | None:
        """Up to `size` bytes; b"" at the end, None if there are none yet."""
        try:
            data = self._take_given_back(size) if self._given_back else self._sock.recv(size)
        except BlockingIOError:
            if self._read_state is _READY:
                self._read_state = _DRAINED
            return None
        except InterruptedError:
            return None
        if len(data) < size:
            if not data:
                self._note_hang_up()
            elif self._read_state is _READY:
                self._read_state = _DRAINED
        return data

    def unread(self, data: bytes) -> None:
        """Give back bytes that were received.

        They come first in the next read, together with those that the kernel holds.
        """
        self._given_back = data + self._given_back
        if self._read_state is _DRAINED:
            self._read_state = _READY

    def _take_given_back(self, size: int) -> bytes:
        data, self._given_back = self._given_back[:size], self._given_back[size:]
        if len(data) == size:
            return data
        try:
            # Ask the kernel as well. Only then does a short read mean that the socket is empty.
            return data + self._sock.recv(size - len(data))
        except OSError:
            return data  # if the connection is broken, the next read fails

    def limit_read(self, deadline: float) -> None:
        self.read_deadline = deadline
        if deadline < self.hub.ticker.earliest:
            self.hub.ticker.note(deadline)

    def call_back_soon(self) -> None:
        self.read_deadline = NEXT_TICK  # as one that has passed; the next read sets its own
        if self.hub.ticker.earliest > NEXT_TICK:
            self.hub.ticker.note(NEXT_TICK)

    def interrupt_read(self) -> None:
        if self.reader is not None:
            self.hub.check_home()
        self.interrupted += 1
        self._end_read(TimeoutError, STALLED_READ)

    def _end_read(self, error: type[OSError], reason: str) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            reschedule(reader, failed(error(reason)))

    async def wait_hung_up(self) -> None:
        if self.hung_up:
            return
        self.hub.check_home()
        if self._watchers is None:
            self._watchers = WaitingTasks()
        await self._watchers.park()

    def release_watchers(self) -> None:
        if self._watchers:
            self.hub.check_home()
            self._watchers.wake_all()

    def on_unattended(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        self._hang_up_callback = callback


protect(ReadingHalf.receive)  # the reader that is noted must wait: another task will wake it
