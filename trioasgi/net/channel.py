"""`Channel`: the bytes of one connection, as the protocol loops of `http1/` see them.

A trio Stream has two verbs that both may wait. A protocol loop on the fast path wants the halves of each
apart: take what is there, and only then wait; hand to the kernel what it takes, and only then wait. It also
wants to learn that the peer has gone while nobody reads, and to say how long a wait may last without a
cancel scope for each wait.

Three classes carry this out: `net.hub_channel.HubChannel` for sockets of the readiness hub,
`net.secure.TLSChannel` for TLS on those, and `net.stream_channel.StreamChannel` for any other
`trio.abc.Stream` (memory streams; SocketStream where there is no epoll, and SSLStream on that).
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE: Final = 64 * 1024
"""Bytes asked of the kernel in one read."""

WRITE_SLICE: Final = 64 * 1024
"""Bytes that are encrypted in one go, or given to a wrapped stream in one `send_all`. OpenSSL's buffer grows
to their size, and keeps it for as long as the connection lasts.
"""

CORK: Final = 64 * 1024
"""Bytes that are held back at the most, to be sent with what follows."""

FILE_SLICE: Final = 256 * 1024
"""Bytes of a file that are read, or sent by the kernel, before other connections get their turn."""

STALLED_READ: Final = "the peer sent nothing in time"
STALLED_WRITE: Final = "the peer took nothing in time"


class ByteChannel(ABC):
    """Bytes in both directions, as a WebSocket needs them: those of a connection, or of a stream of it.

    `read_deadline` is a time of `now()`: a wait for bytes that is under way then, or begins later, ends with
    TimeoutError. `write_timeout` is in seconds: so long may the peer take nothing before `flush()` ends with
    TimeoutError. Both are `math.inf`, never, at first.

    Errors: `OSError` (nearly always a `ConnectionError`) when the connection is broken, `TimeoutError` when
    time is up.
    """

    __slots__ = ("read_deadline", "write_timeout")

    read_deadline: float
    write_timeout: float

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

    @abstractmethod
    async def flush(self) -> None:
        """Wait until all that was taken has been handed to the kernel, as long as `write_timeout` allows."""

    @abstractmethod
    def interrupt_read(self) -> None:
        """End a `receive()` that is under way with TimeoutError, as if its deadline had come: also one that
        has been woken and is yet to run. What has come by then is for whoever reads next.
        """

    @abstractmethod
    async def send_eof(self) -> None:
        """Say that nothing more will be sent, if the transport can say so; reading goes on."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what was taken, as long as `write_timeout` allows, and close in the transport's own orderly
        way. Where that fails, or is cancelled, as `abort()`.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close at once and drop what has not been delivered; a TCP peer gets a reset, so that it cannot take
        a cut response for a whole one.
        """


class Channel(ByteChannel):
    """The bytes of one connection: its hang-up, what arrives unattended, files, and its end."""

    __slots__ = ("_file_left",)

    _file_left: int

    tells_of_hang_up = True
    """Is `hung_up` true as soon as the peer hangs up, and is that told to `on_hung_up`? Where not, somebody
    has to wait in `wait_hung_up()` for it.
    """

    @property
    @abstractmethod
    def hung_up(self) -> bool:
        """Has the peer closed its side, or the whole connection, as far as is known without reading?"""

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
    def on_unattended(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time that bytes, or the end, arrive while nobody waits for them, and from time
        to time while `read_deadline` has passed and nobody waits.
        """

    @abstractmethod
    def on_hung_up(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the peer is seen to hang up."""

    @abstractmethod
    async def cut(self) -> None:
        """Have what was taken delivered, as long as `write_timeout` allows, and then close so that the peer
        can tell that more was to come. Raises nothing but cancellation.
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


def _read_at(fd: int, offset: int, size: int) -> bytes:
    if sys.platform == "win32":
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)
    return os.pread(fd, size, offset)
