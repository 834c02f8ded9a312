"""`HubChannel`: the `Channel` of a socket on the readiness hub."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, TypeVar

import outcome
import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from trioasgi.net.channel import CORK, FILE_SLICE, READ_SIZE, STALLED_READ, STALLED_WRITE, Channel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from trioasgi.net.hub import Hub

T = TypeVar("T")

if sys.platform == "linux":
    _READ_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    _HANGUP_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _BROKEN_EVENTS: Final = select.EPOLLHUP | select.EPOLLERR
else:
    _READ_EVENTS = _WRITE_EVENTS = _HANGUP_EVENTS = _BROKEN_EVENTS = 0

_NO_SENDFILE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""sendfile(2): file systems there are whose files cannot be sent that way."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, for no time


class _Wake(outcome.Outcome[None]):
    """What a task is woken with that only needs to go on: an `outcome.Value(None)` that can be used again
    and again.
    """

    def unwrap(self) -> None:
        return None

    def send(self, gen: Generator[T, None, object]) -> T:
        return gen.send(None)

    async def asend(self, agen: AsyncGenerator[T, None]) -> T:
        return await agen.asend(None)


_WAKE: Final = _Wake()

CLOSED: Final = "this side has closed the connection"


class HubChannel(Channel):
    """A connected, non-blocking stream socket that is registered once with the worker's hub.

    One task may wait to read and one to write at a time; further writers queue.

    As the set is edge-triggered, `_readable` remembers whether the kernel may hold bytes that we have not
    taken: an event sets it, and a read that returned less than it asked for clears it (epoll(7): a short
    read on a stream socket has emptied it). So an idle connection is waited for without a read that can only
    fail. After a hang-up it stays set: no further event will tell of the end of the stream.
    """

    __slots__ = (
        "_broken",
        "_callback",
        "_corked",
        "_corked_size",
        "_emptied",
        "_fd",
        "_given_back",
        "_hang_up_callback",
        "_hub",
        "_hung_up",
        "_readable",
        "_reader",
        "_sent_eof",
        "_sock",
        "_unsent",
        "_watchers",
        "_writable",
        "_writer",
        "_writing",
        "write_deadline",
    )

    def __init__(self, sock: socket.socket, hub: Hub) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self._hub = hub
        self._readable = True
        self._writable = True
        self._sent_eof = False
        self._hung_up = False
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._writing: trio.lowlevel.ParkingLot | None = None
        self._emptied = 0
        self._given_back = b""
        self._watchers: trio.lowlevel.ParkingLot | None = None
        self._unsent: memoryview | None = None
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self._broken: OSError | None = None
        self._callback: Callable[[], None] | None = None
        self._hang_up_callback: Callable[[], None] | None = None
        self.read_deadline = math.inf
        self.write_timeout = math.inf
        self.write_deadline = math.inf
        """When a wait to write that is under way has lasted too long; never where there is none."""
        hub.register(self._fd, self)

    # What the hub calls.

    def on_event(self, flags: int) -> None:
        """Take note of an epoll event and wake whoever waits for it."""
        if flags & _READ_EVENTS:
            self._readable = True
            reader = self._reader
            if reader is not None:
                self._reader = None
                reschedule(reader, _WAKE)
            elif self._callback is not None:
                self._callback()
        if flags & _WRITE_EVENTS and not self._writable:
            self._writable = True
            if self._writer is not None:
                self._wake_writer(_WAKE)
            elif self._unsent is not None:
                # What was held back did not all go when its turn came, and nobody waits for it.
                try:
                    self._send_unsent()
                except OSError as exc:
                    self._broken = exc
        if flags & _HANGUP_EVENTS:
            self._note_hang_up()

    def _note_hang_up(self) -> None:
        if self._hung_up:
            return
        self._hung_up = True
        self.release_watchers()
        if self._hang_up_callback is not None:
            self._hang_up_callback()

    def on_deadline(self, now: float) -> None:
        """End the waits whose deadline has come by `now`."""
        if self._reader is not None and self.read_deadline <= now:
            self.interrupt_read()
        if self.write_deadline <= now:
            self._wake_writer(outcome.Error(TimeoutError(STALLED_WRITE)))

    def _wake_writer(self, result: outcome.Outcome[None]) -> None:
        writer, self._writer = self._writer, None
        self.write_deadline = math.inf
        if writer is not None:
            reschedule(writer, result)

    # Channel

    @property
    def hung_up(self) -> bool:
        return self._hung_up

    def now(self) -> float:
        return trio.current_time()

    def receive_nowait(self) -> bytes | None:
        if not self._readable:
            return None
        return self._recv(READ_SIZE)

    def _recv(self, size: int) -> bytes | None:
        try:
            data = self._take_back(size) if self._given_back else self._sock.recv(size)
        except BlockingIOError:
            self._readable = self._hung_up
            return None
        except InterruptedError:
            return None
        if len(data) < size and not self._hung_up:
            self._readable = False
        if not data:
            self._readable = True
            self._note_hang_up()
        return data

    def unread(self, data: bytes) -> None:
        """Give back bytes that were received: they come first in the next read, together with what there is
        behind them.
        """
        self._given_back = data + self._given_back
        self._readable = True

    def _take_back(self, size: int) -> bytes:
        # What is behind it is asked for as well, so that a short read still means that there is no more.
        data, self._given_back = self._given_back[:size], self._given_back[size:]
        try:
            return data + self._sock.recv(size - len(data)) if len(data) < size else data
        except OSError:
            return data  # of a broken connection the next read tells

    async def receive(self) -> bytes:
        while True:
            if not self._readable:
                if self._reader is not None or self._fd == -1:
                    raise self._no_reader()
                self._reader = current_task()
                await wait_task_rescheduled(self._abort_read)
            data = self._recv(READ_SIZE)
            if data is not None:
                return data

    def _no_reader(self) -> Exception:
        """Why a task may not wait to read."""
        if self._fd == -1:
            return ConnectionAbortedError(CLOSED)
        return trio.BusyResourceError("another task is reading from this connection")

    def _abort_read(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def send_nowait(self, data: bytes) -> bool:
        if self._corked:
            corked, self._corked, self._corked_size = self._corked, None, 0
            data = b"".join([*corked, data])
        if self._unsent is not None:
            # Only where several tasks of an application send at once: each waits for its own turn in flush().
            self._unsent = memoryview(b"".join((self._unsent, data)))
            return False
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        self._writable = False
        return False

    def send_soon(self, data: bytes) -> bool:
        if self._broken is not None:
            raise self._broken
        if self._unsent is not None or len(data) >= CORK:
            return self.send_nowait(data)
        self._corked_size += len(data)
        if self._corked is None:
            self._corked = [data]
            self._hub.flush_soon(self)
            return True
        self._corked.append(data)
        return self._corked_size < CORK or self.send_nowait(b"")

    def uncork(self) -> None:
        """Send what is held back; what goes wrong is for the next send to tell."""
        if self._corked and self._fd != -1:
            try:
                self.send_nowait(b"")
            except OSError as exc:
                self._broken = exc

    async def flush(self) -> None:
        self.uncork()
        while self._unsent is not None:
            if self._writer is not None:
                if await self._await_others():
                    return
                continue
            if not self._writable:
                await self._wait_writable()
            self._send_unsent()

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        if sys.platform == "linux":
            await self.flush()
            while count:
                try:
                    sent = os.sendfile(self._fd, fd, offset, min(count, FILE_SLICE))
                except BlockingIOError:
                    self._writable = False
                    await self._wait_writable()
                    continue
                except OSError as exc:
                    if exc.errno not in _NO_SENDFILE:
                        raise
                    await super().send_file(fd, offset, count)
                    return
                if not sent:
                    raise EOFError(f"the file ends {count} bytes before what was to be sent")
                offset += sent
                count -= sent
                await trio.lowlevel.checkpoint()
        else:
            await super().send_file(fd, offset, count)

    async def _await_others(self) -> bool:
        """Wait until the task that sends has sent all there was, ours with its own, or has given up: False
        then.
        """
        if self._writing is None:
            self._writing = trio.lowlevel.ParkingLot()
        before = self._emptied
        await self._writing.park()
        return self._emptied != before

    def _send_unsent(self) -> None:
        data = self._unsent
        if data is None:
            return
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            self._writable = False
            return
        except OSError:
            self._unsent = None
            self._end_turn()
            raise
        if sent == len(data):
            self._unsent = None
            self._emptied += 1
            self._end_turn()
        else:
            self._unsent = data[sent:]
            self._writable = False

    def _end_turn(self) -> None:
        if self._writing is not None:
            self._writing.unpark_all()

    async def _wait_writable(self) -> None:
        if self._writer is not None:
            raise trio.BusyResourceError("another task is writing to this connection")
        if self._fd == -1:
            raise ConnectionAbortedError(CLOSED)
        self.write_deadline = trio.current_time() + self.write_timeout
        self._writer = current_task()
        await wait_task_rescheduled(self._abort_write)

    def _abort_write(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        self.write_deadline = math.inf
        self._end_turn()
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_hung_up(self) -> None:
        if self._hung_up:
            return
        if self._watchers is None:
            self._watchers = trio.lowlevel.ParkingLot()
        await self._watchers.park()

    def release_watchers(self) -> None:
        if self._watchers is not None:
            self._watchers.unpark_all()

    def interrupt_read(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reschedule(reader, outcome.Error(TimeoutError(STALLED_READ)))

    def on_unattended(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        self._hang_up_callback = callback

    def abort(self) -> None:
        if self._fd != -1:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.close()

    # The end

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._fd == -1 or self._sent_eof:
            return
        if self._unsent is not None or self._writer is not None:
            raise trio.BusyResourceError("another task is writing to this connection")
        self.uncork()
        self._sent_eof = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has closed first: it needs no telling

    async def aclose(self) -> None:
        self.finish()
        await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """Close the socket in TCP's orderly way, for which nobody need wait: the kernel sends what it has
        taken.
        """
        self.uncork()
        self.close()

    def close(self) -> None:
        """Close the socket at once; waits that are under way end with an error."""
        if self._fd == -1:
            return
        self._hub.unregister(self._fd)
        self._fd = -1
        self._hung_up = True
        self._readable = False
        self._unsent = None
        self._corked = None
        # Whoever is to be called holds this stream: without them it is gone at once, and not when the garbage
        # collector gets to it.
        self._callback = self._hang_up_callback = None
        self._sock.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reschedule(reader, outcome.Error(ConnectionAbortedError(CLOSED)))
        if self._writer is not None:
            self._wake_writer(outcome.Error(ConnectionAbortedError(CLOSED)))
        self._end_turn()
        self.release_watchers()
