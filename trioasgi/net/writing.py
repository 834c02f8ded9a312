"""The writing half of a `HubChannel`: bytes that leave at once, bytes that have to wait, and files.

Each send asks the kernel first. If the kernel takes only a part, or nothing, the rest is kept in `_unsent`,
and the state is FULL. From then on the hub watches for room (`Hub.watch_room`). The kernel tells once, by
EPOLLOUT, when its buffer has room again. Then:

- If a task waits for room, for example in `flush()`, the event wakes it. This task is the writer.
- If no task waits, because its flush was cancelled or the bytes had been held back, the event itself sends.

Other tasks queue behind the writer. They go on when the writer has sent all bytes, theirs included. If the
writer is cancelled, one of them becomes the writer. If its wait fails, for example by its deadline, all of
them fail.

`_unsent` is None while the kernel has everything. After a failed send (BROKEN) it has the lost bytes, and is
not None. So `send_nowait` checks one attribute before it asks the kernel.
"""

from __future__ import annotations

import errno
import math
import os
import select
import sys
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task, reschedule

from trioasgi.net.channel import CLOSED, INTERRUPTED, STALLED_WRITE
from trioasgi.net.files import FILE_SLICE
from trioasgi.net.kernel import undelivered
from trioasgi.net.reading import ReadingHalf
from trioasgi.net.waiting import WAKE, WaitingTasks, failed, tell, wait_again
from trioasgi.tasks import protect

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    import outcome

    from trioasgi.net.hub import Hub


class WriteState(Enum):
    """What is known of the room in the kernel's send buffer."""

    ROOM = "there may be some: a send is tried"
    FULL = "there is none: an event tells of it"
    ENDED = "this side has said that it sends no more"
    BROKEN = "a send has failed, or the peer took nothing in time: what was unsent is lost"
    CLOSED = "this side has closed the socket"


TRANSITIONS: Final[Mapping[WriteState, frozenset[WriteState]]] = {
    WriteState.ROOM: frozenset({WriteState.FULL, WriteState.ENDED, WriteState.BROKEN, WriteState.CLOSED}),
    # An event; or the unsent bytes were lost, or given up.
    WriteState.FULL: frozenset({WriteState.ROOM, WriteState.ENDED, WriteState.BROKEN, WriteState.CLOSED}),
    # A send behind the end fails.
    WriteState.ENDED: frozenset({WriteState.BROKEN, WriteState.CLOSED}),
    WriteState.BROKEN: frozenset({WriteState.CLOSED}),
    WriteState.CLOSED: frozenset(),
}

_ROOM: Final = WriteState.ROOM
_FULL: Final = WriteState.FULL
_BROKEN: Final = WriteState.BROKEN
_CLOSED: Final = WriteState.CLOSED

if sys.platform == "linux":
    WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
else:
    WRITE_EVENTS = 0

_NOTHING: Final = memoryview(b"")

LOOKS: Final = 8
"""How often within `write_timeout` to look whether the peer has taken something. Its time begins again with
the look that finds so, which may be so much later.
"""

_NO_SENDFILE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of sendfile(2) that concern the file: its file system does not support sendfile, or the file cannot
be read. An ordinary read then tells which it is.
"""


class WritingHalf(ReadingHalf):
    """Writes to the socket, as `WriteState` allows."""

    __slots__ = (
        "_behind",
        "_behind_size",
        "_emptied",
        "_failure",
        "_interrupts",
        "_patience_end",
        "_queue",
        "_undelivered",
        "_unsent",
        "_write_state",
        "_writer",
        "on_emptied",
        "watches_room",
        "write_deadline",
    )

    def __init__(self, sock: socket.SocketType, hub: Hub) -> None:
        super().__init__(sock, hub)
        self._write_state = _ROOM
        self.watches_room = False
        """Does an event tell of room?"""
        self._failure: OSError | None = None
        """Why the state is BROKEN, or why bytes were lost when it became CLOSED."""
        self._unsent: memoryview | None = None
        self._behind: list[bytes] = []  # what was given while there were unsent bytes
        self._behind_size = 0
        self._writer: trio.lowlevel.Task | None = None  # waits for room
        self._queue: WaitingTasks | None = None  # wait for the writer
        self.on_emptied: Callable[[], None] | None = None
        """Called when an event has sent all unsent bytes, and no task waits for that."""
        self._emptied = 0  # how often all unsent bytes have been sent
        self._interrupts = 0  # how often the waits of writing tasks were interrupted
        self._undelivered = 0
        self._lost = 0
        self._corked = None
        self._corked_size = 0
        self._file_left = 0
        self.write_timeout = math.inf
        self.write_deadline = math.inf
        """When to look whether the peer takes something; `math.inf` without a writer."""
        self._patience_end = math.inf  # when the writer's wait ends with TimeoutError, if it takes nothing

    # What has happened

    def _note_full(self) -> None:
        """There is no room: have an event tell of it."""
        self._write_state = _FULL
        if not self.watches_room:
            self.watches_room = True
            self.hub.watch_room(self._fd)

    def _note_room(self) -> None:
        """There is room again. Unsent bytes leave here: to wake the writer for each part of a long body would
        take longer than the send.
        """
        self._write_state = _ROOM
        if self._unsent is not None:
            with suppress(OSError):  # the writer is told, or the next send tells
                self._send_unsent()
            if self._unsent is not None and self._failure is None:
                if self._writer is not None:
                    self._begin_patience()
                return
        if self._writer is not None:
            self._wake_writer(WAKE)
        elif self._unsent is None and self.on_emptied is not None:
            self.on_emptied()

    def _note_late_write(self, now: float) -> None:
        """The write deadline has passed: look whether the peer has taken some bytes. If it has taken none for
        `write_timeout` seconds, fail the waits of all writing tasks.

        EPOLLOUT alone does not show that: a slow peer may take long until the buffer counts as writable.
        """
        before, self._undelivered = self._undelivered, undelivered(self._fd)
        if self._undelivered < before:
            self._patience_end = now + self.write_timeout
        if now < self._patience_end:
            self.write_deadline = min(now + self.write_timeout / LOOKS, self._patience_end)
            return
        self._break(TimeoutError(STALLED_WRITE), self._unsent or _NOTHING)
        self._wake_writer(failed(self._why_broken()))
        self._wake_queue()

    def _break(self, why: OSError, lost: memoryview) -> None:
        self._failure = why
        self._unsent = lost
        self._lost += self._behind_size
        self._behind, self._behind_size = [], 0
        if self._write_state is not _CLOSED:
            self._write_state = _BROKEN

    def _why_broken(self) -> OSError:
        """A new exception for the failed send.

        A raised exception keeps frames alive. If the channel kept that one, it would keep the frames too.
        """
        failure = self._failure or ConnectionAbortedError(CLOSED)
        return type(failure)(*failure.args)

    def _close_writing(self) -> None:
        self._write_state = _CLOSED
        self.on_emptied = None  # without this circle the channel is freed at once
        if self._unsent is not None or self._corked:
            self._lost += self._corked_size + len(self._unsent or _NOTHING)
            self._break(ConnectionAbortedError(CLOSED), _NOTHING)
        self._corked, self._corked_size = None, 0
        if self._writer is not None:
            self._wake_writer(failed(ConnectionAbortedError(CLOSED)))
        if self._queue is not None:
            self._wake_queue()

    def _wake_writer(self, result: outcome.Outcome[None]) -> None:
        writer, self._writer = self._writer, None
        self.write_deadline = math.inf
        if writer is not None:
            reschedule(writer, result)

    def _wake_queue(self) -> None:
        if self._queue:
            self.hub.check_home()
            self._queue.wake_all()

    # Channel

    @property
    def unsent(self) -> int:
        given = 0 if self._unsent is None else len(self._unsent)
        return given + self._behind_size + self._lost + self._corked_size + self._file_left

    @property
    def has_sent_all(self) -> bool:
        """Has the kernel taken everything? Then `flush` has nothing to do."""
        return self._unsent is None and self._corked is None

    def send_nowait(self, data: bytes, flags: int = 0) -> bool:
        """As `Channel.send_nowait`. `flags` are of send(2)."""
        if self._corked:
            data = self._take_corked(data)
        if self._unsent is not None:
            return self._append(data)
        if not data:
            return True
        try:
            sent = self._sock.send(data, flags)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._break(exc.with_traceback(None), memoryview(data))
            raise self._why_broken() from None
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        self._note_full()
        return False

    def _append(self, data: bytes) -> bool:
        """Put `data` behind the unsent bytes.

        It is rare, except if several tasks of an application send at once, as each waits in `flush()` before
        its next send. There may be thousands, so the pieces are joined only when it is their turn.
        """
        if self._failure is not None:
            self._lost += len(data)
            raise self._why_broken()
        if data:
            self._behind.append(data)
            self._behind_size += len(data)
        return False

    def send_soon(self, *pieces: bytes) -> bool:
        if self._unsent is not None:
            return self.send_nowait(b"".join(pieces))
        return self._hold_back(pieces, self.hub)

    async def flush(self) -> None:
        self.uncork()
        while self._unsent is not None:
            if self._failure is not None:
                raise self._why_broken()
            if self._writer is not None:
                if await self._await_writer():
                    return
                continue
            if self._write_state is _FULL:
                await self._wait_for_room()
                continue  # this side may have closed since the event
            self._send_unsent()

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        if sys.platform == "linux":
            while count:
                self._file_left = count
                await self._await_turn()
                try:
                    sent = os.sendfile(self._fd, fd, offset, min(count, FILE_SLICE))
                except BlockingIOError:
                    self._note_full()
                    await self._wait_for_room()
                    self._wake_queue()
                    continue
                except OSError as exc:
                    if exc.errno not in _NO_SENDFILE or self._write_state is _CLOSED:
                        raise
                    await super().send_file(fd, offset, count)
                    return
                if not sent:
                    raise EOFError(f"the file ends {count} bytes before what was to be sent")
                offset += sent
                count -= sent
                self._file_left = count
                await trio.lowlevel.checkpoint()
        else:
            await super().send_file(fd, offset, count)

    async def _await_turn(self) -> None:
        """Wait until no bytes are unsent and no task waits to send."""
        await self.flush()
        while self._unsent is not None or self._writer is not None:
            if self._writer is not None:
                await self._await_writer()
            await self.flush()

    async def _await_writer(self) -> bool:
        """Wait until the writer has sent all bytes, ours included. False if it gave up before."""
        self.hub.check_home()
        if self._queue is None:
            self._queue = WaitingTasks()
        before, interrupts = self._emptied, self._interrupts
        await self._queue.park()
        if self._interrupts != interrupts:
            raise ConnectionResetError(INTERRUPTED)
        return self._emptied != before

    def _send_unsent(self) -> None:
        data = self._unsent
        if data is None:
            return
        while data is not None:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as exc:
                self._break(exc.with_traceback(None), data)
                self._wake_queue()
                raise self._why_broken() from None
            if sent < len(data):
                self._unsent = data[sent:]
                self._note_full()
                return
            self._unsent = data = self._take_behind()
        self._emptied += 1
        self._wake_queue()

    def _take_behind(self) -> memoryview | None:
        """The bytes that come next."""
        if not self._behind:
            return None
        data = memoryview(b"".join(self._behind))
        self._behind, self._behind_size = [], 0
        return data

    async def _wait_for_room(self) -> None:
        if self._writer is not None:
            raise trio.BusyResourceError("another task is writing to this connection")
        if self._write_state is _CLOSED:
            raise ConnectionAbortedError(CLOSED)
        self.hub.check_home()
        self._begin_patience()
        told = tell(self._abort_write)
        interrupts = self._interrupts
        self._writer = current_task()
        await wait_again(told)
        if self._interrupts != interrupts:
            # An event had woken us before.
            raise ConnectionResetError(INTERRUPTED)

    def _begin_patience(self) -> None:
        """From now on the peer has `write_timeout` seconds until it has taken something."""
        if self.write_timeout != math.inf:
            now = trio.current_time()
            self._patience_end = now + self.write_timeout
            self._undelivered = undelivered(self._fd)
            self.write_deadline = deadline = now + self.write_timeout / LOOKS
            if deadline < self.hub.ticker.earliest:
                self.hub.ticker.note(deadline)

    def interrupt_writes(self) -> None:
        if self._writer is not None:
            self.hub.check_home()
        self._interrupts += 1
        self._wake_writer(failed(ConnectionResetError(INTERRUPTED)))
        self._wake_queue()

    def _abort_write(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        self.write_deadline = math.inf
        self._wake_queue()
        return trio.lowlevel.Abort.SUCCEEDED


protect(WritingHalf._wait_for_room)  # the writer that is noted must wait: another task will wake it
