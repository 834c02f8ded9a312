"""`Channel`: the bytes of one connection, as the protocol loops of `http1/` see them.

A trio Stream has two verbs that both may wait. A protocol loop on the fast path wants the halves of each
apart: take what is there, and only then wait; hand to the kernel what it takes, and only then wait. It also
wants to learn that the peer has gone while nobody reads, and to say how long a wait may last without a
cancel scope for each wait.

Three classes carry this out: `net.hub_channel.HubChannel` for sockets of the readiness hub,
`net.secure.TLSChannel` for TLS on those, and `StreamChannel` here for any other `trio.abc.Stream` (memory
streams; SocketStream where there is no epoll, and SSLStream on that).
"""

from __future__ import annotations

import math
import os
import ssl
import sys
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE: Final = 64 * 1024
"""Bytes asked of the kernel in one read."""

READ_AHEAD: Final = 64 * 1024
"""Bytes that watching a foreign stream for its end may take from it before it stops watching."""

WRITE_SLICE: Final = 256 * 1024
"""Bytes given to a wrapped stream in one `send_all`: SSLStream copies each write whole into a buffer of its
own.
"""

CORK: Final = 64 * 1024
"""Bytes that are held back at the most, to be sent with what follows."""

FILE_SLICE: Final = 256 * 1024
"""Bytes of a file that are read, or sent by the kernel, before other connections get their turn."""

GOODBYE_SECONDS: Final = 2.0
"""How long a stream's own goodbye may take, once all that was to be sent has been."""

STALLED_READ: Final = "the peer sent nothing in time"
STALLED_WRITE: Final = "the peer took nothing in time"


class Channel(ABC):
    """The bytes of one connection.

    `read_deadline` is a time of `now()`: a wait for bytes that is under way then, or begins later, ends with
    TimeoutError. `write_timeout` is in seconds: so long may the peer take nothing before `flush()` ends with
    TimeoutError. Both are `math.inf`, never, at first.

    Errors: `OSError` (nearly always a `ConnectionError`) when the connection is broken, `TimeoutError` when
    time is up.
    """

    __slots__ = ("_file_left", "read_deadline", "write_timeout")

    read_deadline: float
    write_timeout: float
    _file_left: int

    tells_of_hang_up = True
    """Is `hung_up` true as soon as the peer hangs up, and is that told to `on_hung_up`? Where not, somebody
    has to wait in `wait_hung_up()` for it.
    """

    @property
    @abstractmethod
    def hung_up(self) -> bool:
        """Has the peer closed its side, or the whole connection, as far as is known without reading?"""

    @abstractmethod
    def now(self) -> float:
        """The time the deadlines are measured by, in seconds."""

    @abstractmethod
    def receive_nowait(self) -> bytes | None:
        """Bytes that are there already; b"" at the end of the stream; None if a wait is needed."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for bytes, as long as `read_deadline` allows; b"" at the end of the stream."""

    @abstractmethod
    def send_nowait(self, data: bytes) -> bool:
        """Take `data` for sending, in order.

        True if nothing is left to wait for, False if `flush()` must be awaited.
        """

    def send_soon(self, data: bytes) -> bool:
        """As `send_nowait`, but where more may follow at once: so `data` may be held back, up to `CORK` bytes
        of it, until the tasks that can run now have run.
        """
        return self.send_nowait(data)

    def take_back(self, data: bytes) -> bool:  # noqa: ARG002 - for those that hold something back
        """Forget `data`, the object that was given to `send_soon` last. False if it may have left."""
        return False

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were taken, those of a file included, but not by the kernel; once sending has failed,
        those that were lost by that.
        """

    @property
    def undelivered(self) -> int:
        """Bytes in the kernel's queue that the peer has yet to acknowledge; 0 where nobody can tell."""
        return 0

    @abstractmethod
    async def flush(self) -> None:
        """Wait until all that was taken has been handed to the kernel, as long as `write_timeout` allows."""

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of a regular file from `offset` on; at most `FILE_SLICE` of them are held in
        memory.

        Raises EOFError if the file ends before, or cannot be read.
        """
        self._file_left = count
        while count:
            try:
                piece = _read_at(fd, offset, min(count, FILE_SLICE))
            except OSError as exc:  # not to be taken for the connection's
                raise EOFError(f"the file cannot be read: {exc}") from exc
            if not piece:
                raise EOFError(f"the file ends {count} bytes before what was to be sent")
            offset += len(piece)
            count -= len(piece)
            self._file_left = count
            if self.send_nowait(piece):
                await trio.lowlevel.checkpoint()
            else:
                await self.flush()

    @abstractmethod
    async def wait_hung_up(self) -> None:
        """Wait until `hung_up` is true, or until `release_watchers()` is called."""

    @abstractmethod
    def release_watchers(self) -> None:
        """Let every `wait_hung_up()` that is under way return now."""

    @abstractmethod
    def interrupt_read(self) -> None:
        """End a read that waits now with TimeoutError, as if its deadline had come."""

    @abstractmethod
    def on_unattended(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time that bytes, or the end, arrive while nobody waits for them, and from time
        to time while `read_deadline` has passed and nobody waits.
        """

    @abstractmethod
    def on_hung_up(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the peer is seen to hang up."""

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that nothing more will be sent, if the transport can say so; reading goes on."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what was taken, as long as `write_timeout` allows, and close in the transport's own orderly
        way. Where that fails, or is cancelled, as `abort()`.
        """

    @abstractmethod
    async def cut(self) -> None:
        """Have what was taken delivered, as long as `write_timeout` allows, and then close so that the peer
        can tell that more was to come. Raises nothing but cancellation.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close at once and drop what has not been delivered; a TCP peer gets a reset, so that it cannot take
        a cut response for a whole one.
        """


class Delivery:
    """Tells whether a peer takes what was sent, from one look to the next."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._left = channel.undelivered
        self._taken_at = trio.current_time()

    def goes_on(self) -> bool:
        """Has the peer not got everything yet, and taken something within the channel's `write_timeout`?"""
        left, now = self._channel.undelivered, trio.current_time()
        if left < self._left:
            self._left, self._taken_at = left, now
        return left > 0 and now - self._taken_at < self._channel.write_timeout


class StreamChannel(Channel):
    """A Channel on any `trio.abc.Stream`: a cancel scope for each wait, and no look at the peer but by
    reading.
    """

    tells_of_hang_up = False

    __slots__ = (
        "_aborted",
        "_buffered",
        "_eof",
        "_read_deadline",
        "_reading",
        "_reading_scope",
        "_stream",
        "_unsent",
        "_unsent_size",
        "_watch_scopes",
        "_writing",
        "_writing_scope",
    )

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffered: deque[bytes] = deque()
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._file_left = 0
        self._reading = trio.Lock()
        self._writing = trio.Lock()
        self._aborted = False
        self._eof = False
        self._reading_scope: trio.CancelScope | None = None
        self._writing_scope: trio.CancelScope | None = None
        self._watch_scopes: set[trio.CancelScope] = set()
        self._read_deadline = math.inf
        self.write_timeout = math.inf

    @property
    def read_deadline(self) -> float:
        return self._read_deadline

    @read_deadline.setter
    def read_deadline(self, deadline: float) -> None:
        self._read_deadline = deadline
        if self._reading_scope is not None:
            self._reading_scope.deadline = deadline

    @property
    def hung_up(self) -> bool:
        return self._eof

    def now(self) -> float:
        return trio.current_time()

    def receive_nowait(self) -> bytes | None:
        if self._buffered:
            return self._buffered.popleft()
        return b"" if self._eof else None

    async def receive(self) -> bytes:
        ready = self.receive_nowait()
        if ready is not None:
            return ready
        with trio.CancelScope(deadline=self.read_deadline) as scope:
            self._reading_scope = scope
            try:
                # Whoever watches for the end reads too, and may have to be waited for.
                async with self._reading:
                    ready = self.receive_nowait()
                    return await self._read() if ready is None else ready
            finally:
                self._reading_scope = None
        raise TimeoutError(STALLED_READ)

    async def _read(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(READ_SIZE))
        except trio.BrokenResourceError as exc:
            self._eof = True
            if _is_ragged_eof(exc):
                return b""
            raise ConnectionResetError("the connection was broken") from exc
        except trio.ClosedResourceError as exc:
            raise ConnectionAbortedError("this side has closed the connection") from exc
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

    async def flush(self) -> None:
        async with self._writing:
            if self._aborted:
                raise ConnectionAbortedError("a piece of what was to be sent was lost")
            whole = False
            try:
                while self._unsent:
                    view = memoryview(self._unsent.popleft())
                    for start in range(0, len(view), WRITE_SLICE):
                        await self._send_slice(view[start : start + WRITE_SLICE])
                whole = True
            finally:
                # Nobody knows how much of a write that was cancelled has left, and SSLStream is broken by it.
                self._aborted = self._aborted or not whole

    async def _send_slice(self, data: memoryview) -> None:
        with trio.CancelScope(deadline=trio.current_time() + self.write_timeout) as scope:
            self._writing_scope = scope
            await self._write(data)
            self._unsent_size -= len(data)
        self._writing_scope = None
        if scope.cancelled_caught:
            raise TimeoutError(STALLED_WRITE)

    async def _write(self, data: memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as exc:
            raise ConnectionResetError("the connection was broken") from exc
        except trio.ClosedResourceError as exc:
            raise ConnectionAbortedError("this side has closed the connection") from exc

    async def wait_hung_up(self) -> None:
        # There is no way to learn of the end of an unknown stream but to read it; what comes is kept for
        # receive().
        if self._eof:
            return
        with trio.CancelScope() as scope:
            self._watch_scopes.add(scope)
            try:
                await self._read_ahead()
            finally:
                self._watch_scopes.discard(scope)

    async def _read_ahead(self) -> None:
        async with self._reading:
            while not self._eof:
                if sum(map(len, self._buffered)) >= READ_AHEAD:
                    await trio.sleep_forever()
                try:
                    data = await self._read()
                except ConnectionError:
                    return
                if data:
                    self._buffered.append(data)

    def release_watchers(self) -> None:
        for scope in self._watch_scopes:
            scope.cancel()

    def interrupt_read(self) -> None:
        if self._reading_scope is not None:
            self._reading_scope.cancel()

    def on_unattended(self, callback: Callable[[], None]) -> None:
        """Nothing tells of an unknown stream that it could be read: `callback` is not called."""

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        """Nothing tells of an unknown stream that its peer has gone: `callback` is not called."""

    async def send_eof(self) -> None:
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer has closed first: it needs no telling

    async def aclose(self) -> None:
        try:
            if self._unsent_size:
                with suppress(OSError):  # flush() has noted it
                    await self.flush()
        finally:
            if self._aborted:
                await trio.aclose_forcefully(self._stream)
        if not self._aborted:
            with trio.move_on_after(GOODBYE_SECONDS):
                await self._stream.aclose()

    async def cut(self) -> None:
        with suppress(OSError):
            await self.flush()
        self.abort()

    def abort(self) -> None:
        self._aborted = True
        self.release_watchers()
        self.interrupt_read()
        if self._writing_scope is not None:
            self._writing_scope.cancel()


def _read_at(fd: int, offset: int, size: int) -> bytes:
    if sys.platform == "win32":
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)
    return os.pread(fd, size, offset)


def _is_ragged_eof(exc: trio.BrokenResourceError) -> bool:
    # A TLS peer that closes its TCP side without close_notify: common, and no worse than a plain
    # connection's end for HTTP, whose messages say themselves where they end (RFC 9112, 9.8).
    return isinstance(exc.__cause__, ssl.SSLEOFError)
