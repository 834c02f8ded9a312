"""`StreamChannel`: a `Channel` on any Trio stream, for streams that are not on the readiness hub.

Each half has one flag that is set once and never cleared: `_eof` when the peer has ended, `_aborted` when
nothing more can be sent. The halves do not depend on each other, so there is no table of states.
"""

from __future__ import annotations

import math
import ssl
import sys
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.channel import (
    CLOSED,
    INTERRUPTED,
    READ_SIZE,
    STALLED_READ,
    STALLED_WRITE,
    WRITE_SLICE,
    Channel,
    wait_delivered,
)
from trioasgi.net.kernel import (
    acknowledged,
    drop_received,
    is_dead,
    progress,
    reset_on_close,
    undelivered,
    unread,
)
from trioasgi.net.peers import socket_of
from trioasgi.net.tick_clock import tick_clock
from trioasgi.net.ticker import TICK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READ_AHEAD: Final = 64 * 1024
"""`wait_hung_up()` and `read_ahead()` read no more when so many bytes wait to be received."""

LATE_ROUNDS: Final = 10
"""Rounds of the scheduler for which `receive_late()` reads. A task that moves bytes from a stream to another
takes three.
"""

CLOSE_SECONDS: Final = 2.0
"""Seconds that the stream's own `aclose()` may take after everything was sent: TLS sends close_notify there.
"""

CLOSE_DROP: Final = 1024 * 1024
"""The most bytes that are dropped before a close, of those that nobody has read."""

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a stream raises if its peer has closed first, or the program. Also the `aclose()` of an SSLStream."""


class StreamChannel(Channel):
    """A Channel on any `trio.abc.Stream`. Each wait has a cancel scope. Only a read can tell that the peer
    has gone.
    """

    tells_of_hang_up = False

    __slots__ = (
        "_aborted",
        "_buffered",
        "_ended",
        "_eof",
        "_progress",
        "_read_deadline",
        "_reading",
        "_reading_scopes",
        "_socket",
        "_stalled",
        "_stopped",
        "_stream",
        "_unsent",
        "_unsent_size",
        "_watch_scopes",
        "_writing",
        "_writing_scope",
        "write_timeout",
    )

    write_timeout: float

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        # One block, not the pieces as they came: those may be of one byte each.
        self._buffered = bytearray()
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._file_left = 0
        self._reading = trio.Lock()
        self._writing = trio.Lock()
        self._aborted = False
        self._ended = False
        self._socket = socket_of(stream)
        self._eof = False
        self._reading_scopes: set[trio.CancelScope] = set()
        self._writing_scope: trio.CancelScope | None = None
        self._stopped: tuple[type[OSError], str] = (TimeoutError, STALLED_WRITE)  # why the last write ended
        self._stalled = 0.0  # for how many seconds the peer has taken nothing
        self._progress = 0  # of the peer (`kernel.progress`) at the last tick
        self._watch_scopes: set[trio.CancelScope] = set()
        self._read_deadline = math.inf
        self.write_timeout = math.inf

    @property
    def read_deadline(self) -> float:
        return self._read_deadline

    @read_deadline.setter
    def read_deadline(self, deadline: float) -> None:
        self._read_deadline = deadline
        for scope in self._reading_scopes:
            scope.deadline = deadline

    @property
    def hung_up(self) -> bool:
        return self._eof

    @property
    def may_have_more(self) -> bool:
        return bool(self._buffered) or self._eof

    def now(self) -> float:
        return trio.current_time()

    def receive_nowait(self) -> bytes | None:
        if self._buffered:
            data = bytes(self._buffered)
            self._buffered.clear()
            return data
        return b"" if self._eof else None

    async def receive(self) -> bytes:
        ready = self.receive_nowait()
        if ready is not None:
            return ready
        return await self._receive_within(trio.CancelScope(deadline=self.read_deadline))

    async def _receive_within(self, scope: trio.CancelScope) -> bytes:
        with scope:
            self._reading_scopes.add(scope)
            try:
                # `wait_hung_up()` reads too. The lock makes the two take turns.
                async with self._reading:
                    data = self.receive_nowait()
                    if data is None:
                        data = await self._read()
                    if not scope.cancel_called:
                        return data
                    # Interrupted: keep the bytes for the next read. `_eof` remembers the end.
                    self._buffered[:0] = data
            finally:
                self._reading_scopes.discard(scope)
        raise TimeoutError(STALLED_READ)

    async def receive_late(self) -> bytes:
        """As `Channel.receive_late`. Bytes may be within the stream, or on their way through tasks of the
        program that feed it. So this reads on for some rounds of the scheduler. A time would not do: none is
        left when the loop was blocked.
        """
        ready = self.receive_nowait()
        if ready is not None:
            return ready
        # With a nursery in place of this, what the read raises would leave in a group, also Cancelled.
        reading, counting = trio.CancelScope(), trio.CancelScope()
        trio.lowlevel.spawn_system_task(_cancel_after, LATE_ROUNDS, reading, counting)
        try:
            return await self._receive_within(reading)
        except (TimeoutError, ConnectionError):
            return b""
        finally:
            counting.cancel()

    async def _read(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(READ_SIZE))
        except trio.BrokenResourceError as exc:
            self._eof = True
            if _is_ragged_eof(exc):
                return b""
            raise ConnectionResetError("the connection was broken") from exc
        except trio.ClosedResourceError as exc:
            self._eof = True  # the program may close a stream that is its own: the client is gone then
            raise ConnectionAbortedError(CLOSED) from exc
        except Exception:
            self._eof = True  # nobody should read from it again
            raise
        if not data:
            self._eof = True
        return data

    def send_nowait(self, data: bytes) -> bool:
        if data:
            self._unsent.append(data)
            self._unsent_size += len(data)
        return not self._unsent_size

    @property
    def unsent(self) -> int:
        return self._unsent_size + self._file_left

    @property
    def is_sending(self) -> bool:
        return self._writing.locked()

    @property
    def is_cut(self) -> bool:
        return self._aborted

    @property
    def progress(self) -> tuple[int, int] | None:
        if self._socket is None or sys.platform != "linux":
            return None  # only there the kernel tells
        return progress(self._socket), self._unsent_size

    @property
    def acknowledged(self) -> int | None:
        return None if self._socket is None else acknowledged(self._socket)

    async def flush(self) -> None:
        async with self._writing:
            if self._aborted:
                raise ConnectionAbortedError("a piece of what was to be sent was lost")
            await trio.lowlevel.checkpoint_if_cancelled()  # nothing is lost yet: it can be sent later
            clock = tick_clock()
            whole = False
            try:
                clock.add(self)
                while self._unsent:
                    view = memoryview(self._unsent.popleft())
                    for start in range(0, len(view), WRITE_SLICE):
                        await self._send_slice(view[start : start + WRITE_SLICE])
                whole = True
            finally:
                clock.discard(self)
                # A cancelled write may have sent any part of its bytes, and it breaks an SSLStream.
                self._aborted = self._aborted or not whole

    async def _send_slice(self, data: memoryview) -> None:
        self._stalled = -TICK  # the first tick may come at once
        with trio.CancelScope() as scope:
            self._writing_scope = scope
            await self._write(data)
            self._unsent_size -= len(data)
        self._writing_scope = None
        if scope.cancelled_caught:
            kind, why = self._stopped
            raise kind(why)

    def _stop_writing(self, kind: type[OSError], why: str) -> None:
        if self._writing_scope is not None and not self._writing_scope.cancel_called:
            self._stopped = kind, why
            self._writing_scope.cancel()

    def interrupt_writes(self) -> None:
        self._stop_writing(ConnectionResetError, INTERRUPTED)

    def note_tick(self, seconds: float) -> None:
        """As of `tick_clock.Waiter`. The send ends if the peer has taken nothing for `write_timeout`."""
        before = self._progress
        if self._socket is not None:
            self._progress = progress(self._socket)
        if self._progress != before:
            self._stalled = 0.0
            return
        self._stalled += seconds
        if self._stalled >= self.write_timeout:
            self._stop_writing(TimeoutError, STALLED_WRITE)

    async def _write(self, data: memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as exc:
            raise ConnectionResetError("the connection was broken") from exc
        except trio.ClosedResourceError as exc:
            raise ConnectionAbortedError(CLOSED) from exc

    async def wait_hung_up(self) -> None:
        # Only a read can tell that the stream has ended. The bytes that it brings are kept for receive().
        if not self._eof:
            await self._watch(self._read_to_the_end)

    async def read_ahead(self) -> None:
        # A flush that was cancelled before it began has left its bytes here: 100 (Continue), say, for which
        # the client waits.
        with suppress(OSError):
            await self.flush()
        await self._watch(self._read_once)

    async def _watch(self, read: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as scope:
            self._watch_scopes.add(scope)
            try:
                await read()
            finally:
                self._watch_scopes.discard(scope)

    async def _read_once(self) -> None:
        async with self._reading:
            if not self._eof and len(self._buffered) < READ_AHEAD:
                with suppress(ConnectionError):
                    self._buffered += await self._read()

    async def _read_to_the_end(self) -> None:
        async with self._reading:
            while not self._eof:
                if len(self._buffered) >= READ_AHEAD:
                    await trio.sleep_forever()
                try:
                    data = await self._read()
                except ConnectionError:
                    return
                self._buffered += data

    def release_watchers(self) -> None:
        for scope in self._watch_scopes:
            scope.cancel()

    def interrupt_read(self) -> None:
        for scope in self._reading_scopes:
            scope.cancel()

    def on_unattended(self, callback: Callable[[], None]) -> None:
        """A Trio stream does not tell when it becomes readable: `callback` is never called."""

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        """A Trio stream does not tell when its peer hangs up: `callback` is never called."""

    async def send_eof(self) -> bool:
        if not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return False
        with suppress(*_GONE):
            await self._stream.send_eof()
        return True

    async def aclose(self) -> None:
        # No `finally` with an `await`: mypyc would raise what a caller of this handles meanwhile.
        try:
            if self._unsent_size:
                await self.flush()
        except OSError:
            pass  # flush() has set `_aborted`
        except BaseException:
            self.abort()
            await trio.aclose_forcefully(self._stream)
            raise
        if self._aborted:
            await self._aclose_cut()
            return
        self.drop_received(CLOSE_DROP)
        with trio.move_on_after(CLOSE_SECONDS), suppress(*_GONE):
            await self._stream.aclose()

    async def _aclose_cut(self) -> None:
        """Reset, but not before what has left is delivered: an earlier response may be whole. If this is
        cancelled, the kernel goes on to deliver it.
        """
        try:
            if not self._ended:
                await wait_delivered(self)
        except BaseException:
            self.close()
            await trio.aclose_forcefully(self._stream)
            raise
        self.abort()
        await trio.aclose_forcefully(self._stream)

    @property
    def undelivered(self) -> int:
        return 0 if self._fd < 0 else undelivered(self._fd)

    @property
    def is_dead(self) -> bool:
        return self._fd >= 0 and is_dead(self._fd)

    @property
    def _fd(self) -> int:
        """The descriptor of its socket, while that is open; -1 if it has none."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def has_unread(self) -> bool:
        return self._fd >= 0 and unread(self._fd) > 0

    def drop_received(self, most: int) -> None:
        if self._fd >= 0:
            drop_received(self._fd, most)

    async def cut(self) -> None:
        try:
            with suppress(OSError):
                await self.flush()
            if not self._ended:  # a piece may be lost, but what left before it is on its way
                await wait_delivered(self)
        finally:
            self.abort()

    def abort(self) -> None:
        if not self._ended and self._socket is not None:
            with suppress(OSError):  # the program has closed it
                reset_on_close(self._socket)
        self.close()

    def close(self) -> None:
        """As `Channel.close`. The stream itself is closed by `aclose()`."""
        self._ended = True
        self._aborted = True
        self._eof = True  # also for a wait for the hang-up that is shielded from cancellation
        self.release_watchers()
        self.interrupt_read()
        self._stop_writing(ConnectionAbortedError, CLOSED)


async def _cancel_after(rounds: int, reading: trio.CancelScope, counting: trio.CancelScope) -> None:
    with counting:
        for _ in range(rounds):
            await trio.lowlevel.checkpoint()
        reading.cancel()


def _is_ragged_eof(exc: trio.BrokenResourceError) -> bool:
    # A TLS peer may close TCP without close_notify. Many do. HTTP's messages say themselves where they end,
    # so this is treated as an ordinary end (RFC 9112, 9.8).
    return isinstance(exc.__cause__, ssl.SSLEOFError)
