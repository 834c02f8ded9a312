"""`HubChannel`: the `Channel` of a socket on the readiness hub."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import outcome
import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from trioasgi.net.channel import CORK, FILE_SLICE, READ_SIZE, STALLED_READ, STALLED_WRITE, Channel, Delivery
from trioasgi.net.kernel import is_dead, reset_on_close, undelivered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from trioasgi.net.hub import Hub

T = TypeVar("T")

if sys.platform == "linux":
    _READ_EVENTS: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _WRITE_EVENTS: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    _HANGUP_EVENTS: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
else:
    _READ_EVENTS = _WRITE_EVENTS = _HANGUP_EVENTS = 0

_NO_SENDFILE: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP})
"""sendfile(2): file systems there are whose files cannot be sent that way; and files that cannot be read, of
which reading tells.
"""


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

DELIVERY_CHECK: Final = (0.005, 0.25)
"""Seconds between two looks at what the peer has yet to receive, at first and at most. No event tells of it.
"""


class HubChannel(Channel):
    """A connected, non-blocking stream socket that is registered once with the worker's hub.

    One task may wait to read and one to write at a time; further writers queue. What ends the wait of the one
    that writes, its deadline for example, ends the waits of those behind it.

    Once a send has failed, `_broken` says why and `_unsent` is what was lost with it, never None: so an
    ordinary send has one thing to look at.

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
        "_hung_up",
        "_readable",
        "_reader",
        "_sent_eof",
        "_sock",
        "_undelivered",
        "_unsent",
        "_watchers",
        "_writable",
        "_writer",
        "_writing",
        "hub",
        "interrupted",
        "write_deadline",
    )

    def __init__(self, sock: socket.socket, hub: Hub) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.hub = hub
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
        self._undelivered = 0
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self._file_left = 0
        self._broken: OSError | None = None
        self._callback: Callable[[], None] | None = None
        self._hang_up_callback: Callable[[], None] | None = None
        self.interrupted = 0
        """How often reads were interrupted: who has waited looks whether that was meant for it, too."""
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
            elif self._unsent is not None and self._broken is None:
                # What was held back did not all go when its turn came, and nobody waits for it.
                with suppress(OSError):  # the next send tells
                    self._send_unsent()
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
        """End the waits whose deadline has come by `now`; a read deadline that nobody waits with is told as
        bytes that nobody waits for.
        """
        if self.read_deadline <= now:
            if self._reader is not None:
                self.interrupt_read()
            elif self._callback is not None:
                self._callback()
        if self.write_deadline <= now:
            self._end_stalled_write(now)

    def _end_stalled_write(self, now: float) -> None:
        """End the waits of all who write, unless the peer has taken something: a socket counts as writable
        only when a third of its buffer is free, which a slow peer may need long for.
        """
        before, self._undelivered = self._undelivered, undelivered(self._fd)
        if self._undelivered < before:
            self.write_deadline = now + self.write_timeout
            return
        self._break(TimeoutError(STALLED_WRITE))
        self._wake_writer(outcome.Error(self._why_broken()))
        self._end_turn()

    def _break(self, why: OSError) -> None:
        """Note that what was to be sent is lost."""
        self._broken = why
        if self._unsent is None:
            self._unsent = memoryview(b"")

    def _why_broken(self) -> OSError:
        """What to raise for a send that has failed. A new exception each time: one that was raised holds
        frames, and would be held by the channel.
        """
        broken = self._broken or ConnectionAbortedError(CLOSED)
        return type(broken)(*broken.args)

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
        return self.hub.current_time()

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
                interrupted = self.interrupted
                await wait_task_rescheduled(self._abort_read)
                if self.interrupted != interrupted:
                    # We had been woken already; what has come is for whoever reads next.
                    raise TimeoutError(STALLED_READ)
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

    @property
    def unsent(self) -> int:
        return self._corked_size + self._file_left + (0 if self._unsent is None else len(self._unsent))

    def send_nowait(self, data: bytes) -> bool:
        if self._corked:
            corked, self._corked, self._corked_size = self._corked, None, 0
            data = b"".join([*corked, data])
        if self._unsent is not None:
            if self._broken is not None:
                raise self._why_broken()
            # Only where several tasks of an application send at once: each waits for its own turn in flush().
            self._unsent = memoryview(b"".join((self._unsent, data)))
            return False
        if not data:
            return True
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._unsent = memoryview(data)
            self._broken = exc.with_traceback(None)
            raise self._why_broken() from None
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        self._writable = False
        return False

    def send_soon(self, data: bytes) -> bool:
        if self._unsent is not None or len(data) >= CORK:
            return self.send_nowait(data)
        self._corked_size += len(data)
        if self._corked is None:
            self._corked = [data]
            self.hub.flush_soon(self)
            return True
        self._corked.append(data)
        return self._corked_size < CORK or self.send_nowait(b"")

    def take_back(self, data: bytes) -> bool:
        corked = self._corked
        if not corked or corked[-1] is not data:
            return False
        corked.pop()
        self._corked_size -= len(data)
        return True

    def uncork(self) -> None:
        """Send what is held back; what goes wrong is for the next send to tell."""
        if self._corked is not None and self._fd != -1:
            with suppress(OSError):
                self.send_nowait(b"")
            self._corked = None

    async def flush(self) -> None:
        self.uncork()
        while self._unsent is not None:
            if self._broken is not None:
                raise self._why_broken()
            if self._writer is not None:
                if await self._await_others():
                    return
                continue
            if not self._writable:
                await self._wait_writable()
            self._send_unsent()

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        if sys.platform == "linux":
            while count:
                self._file_left = count
                await self._await_turn()
                try:
                    sent = os.sendfile(self._fd, fd, offset, min(count, FILE_SLICE))
                except BlockingIOError:
                    self._writable = False
                    await self._wait_writable()
                    self._end_turn()
                    continue
                except OSError as exc:
                    if exc.errno not in _NO_SENDFILE or self._fd == -1:
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
        """Wait until nothing is left to be sent, and nobody waits to send."""
        await self.flush()
        while self._unsent is not None or self._writer is not None:
            if self._writer is not None:
                await self._await_others()
            await self.flush()

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
        except OSError as exc:
            self._broken = exc.with_traceback(None)
            self._end_turn()
            raise self._why_broken() from None
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
        if self.write_timeout != math.inf:
            self.write_deadline = trio.current_time() + self.write_timeout
            self._undelivered = undelivered(self._fd)
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
        self.interrupted += 1
        reader, self._reader = self._reader, None
        if reader is not None:
            reschedule(reader, outcome.Error(TimeoutError(STALLED_READ)))

    def on_unattended(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        self._hang_up_callback = callback

    def abort(self) -> None:
        if self._fd != -1:
            reset_on_close(self._sock)
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

    @property
    def undelivered(self) -> int:
        return 0 if self._fd == -1 or is_dead(self._fd) else undelivered(self._fd)

    async def aclose(self) -> None:
        if self._writer is not None:
            self.abort()  # somebody's send is cut: trio's Stream wants it to end at once
        elif not self.finish():
            whole = False
            try:
                await self.flush()
                whole = True
            except OSError:
                pass  # it cannot be delivered, which the reset says
            finally:
                if whole:
                    self.close()
                else:
                    self.abort()
        await trio.lowlevel.checkpoint()

    def finish(self) -> bool:
        """Close the socket in TCP's orderly way, if nobody need wait for that: the kernel sends what it has
        taken. False if it has not taken everything yet: `aclose()` must be awaited then.
        """
        self.uncork()
        if self._unsent is not None and self._fd != -1:
            return False
        self.close()
        return True

    async def cut(self) -> None:
        try:
            await self.flush()
            await self._wait_delivered()
        except OSError:
            pass  # what could be done has been done
        finally:
            self.abort()

    async def _wait_delivered(self) -> None:
        """Wait until the peer's kernel has everything, or has taken nothing for `write_timeout`: a reset
        drops what is in our send queue.
        """
        pause, longest = DELIVERY_CHECK
        delivery = Delivery(self)
        while delivery.goes_on():
            await trio.sleep(pause)
            pause = min(2 * pause, longest)

    def close(self) -> None:
        """Close the socket at once; waits that are under way end with an error."""
        if self._fd == -1:
            return
        self.hub.unregister(self._fd)
        self._fd = -1
        self._hung_up = True
        self._readable = False
        if self._unsent is not None or self._corked:
            self._broken = ConnectionAbortedError(CLOSED)
            self._unsent = memoryview(b"")
        self._corked, self._corked_size = None, 0
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
