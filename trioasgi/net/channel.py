"""`Channel`: the bytes of one connection, as the protocol loops of `http1/` use them.

A trio Stream can receive and send, and both may wait. A protocol loop needs the parts of each: take the bytes
that are there, and wait only if there are none; give bytes to the kernel, and wait only if it takes no more.
The loop must also learn that the peer has gone while no task reads. And it sets deadlines without a cancel
scope for each wait.

Three classes implement it: `net.hub_channel.HubChannel` for sockets of the readiness hub,
`net.secure.TLSChannel` for TLS on those, and `net.stream_channel.StreamChannel` for any other
`trio.abc.Stream` (memory streams; SocketStream where there is no epoll, and SSLStream on that).
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.net.files import read_in_pieces

if TYPE_CHECKING:
    from collections.abc import Callable

READ_SIZE: Final = 64 * 1024
"""The most bytes that one read asks the kernel for."""

WRITE_SLICE: Final = 64 * 1024
"""The most bytes that are encrypted in one go, or that one `send_all` of a wrapped stream gets. OpenSSL's
buffer grows to that size and keeps it until the connection ends.
"""

CORK: Final = 256 * 1024
"""The most bytes that `send_soon` holds back. One large send costs much less than four small ones: each of
those wakes the peer, which then reads from the other end of the connection at the same time.
"""

FIRST_CHECK: Final = 0.005
LONGEST_CHECK: Final = 0.25
"""Seconds between two checks of the undelivered bytes: the first pause, and the longest. No event tells of
them. (mypyc takes no tuple of floats.)
"""

LATE_READS: Final = 16
"""How often a reader asks `receive_late` for the end of a head, or of a body: each answer is a TLS record, or
more. The bound is for peers that send a little again and again.
"""

STALLED_READ: Final = "the peer sent nothing in time"
STALLED_WRITE: Final = "the peer took nothing in time"
INTERRUPTED: Final = "what was to be sent was given up"
CLOSED: Final = "this side has closed the connection"


class ByteChannel:
    """Bytes in both directions, of a connection or of one stream of it. A WebSocket needs no more than this.

    `read_deadline` is a time as of `now()`. A read that waits at that time, or later, ends with TimeoutError.
    To set an earlier one while a read waits, call `limit_read`.
    `write_timeout` is in seconds. `flush()` ends with TimeoutError when the peer has taken nothing for so
    long. Both are `math.inf` at first: no limit.

    All methods raise `OSError`, nearly always a `ConnectionError`, when the connection is broken.
    """

    __slots__ = ()

    # Properties, not attributes: compiled code sets an attribute of a base class past a subclass's property.

    @property
    @abstractmethod
    def read_deadline(self) -> float:
        """When a read that waits ends with TimeoutError."""

    @read_deadline.setter
    def read_deadline(self, deadline: float) -> None:
        raise NotImplementedError

    @property
    @abstractmethod
    def write_timeout(self) -> float:
        """How many seconds the peer may take nothing."""

    @write_timeout.setter
    def write_timeout(self, seconds: float) -> None:
        raise NotImplementedError

    @abstractmethod
    def now(self) -> float:
        """The time by which `read_deadline` is measured, in seconds."""

    @property
    def part(self) -> int:
        """How many bytes have come of a TLS record that is not whole, which nobody can read yet. Off the hub
        that is not known, and this is 0.
        """
        return 0

    @property
    def part_since(self) -> float:
        """When a read found the beginning of that record; infinity if there is none."""
        return math.inf

    @property
    def part_at(self) -> float:
        """When the last bytes of such a record were read."""
        return -math.inf

    @abstractmethod
    def receive_nowait(self) -> bytes | None:
        """Bytes that have arrived; b"" at the end of the stream; None if there are none yet."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Wait for bytes until `read_deadline`; b"" at the end of the stream. Raises TimeoutError."""

    async def receive_late(self) -> bytes:
        """What had arrived when `read_deadline` passed, which has ended a `receive()`; b"" if nothing had."""
        return self.receive_nowait() or b""

    @abstractmethod
    def send_nowait(self, data: bytes) -> bool:
        """Send `data` behind what was given before.

        True if the kernel has taken everything, False if `flush()` must be awaited.
        """

    def send_ahead_nowait(self, data: bytes) -> bool:
        """As `send_nowait`, for bytes behind which the caller sends more at once. The kernel may keep them
        for a moment, so that all leave together.
        """
        return self.send_nowait(data)

    def send_two_nowait(self, first: bytes, second: bytes) -> bool:
        """As `send_nowait(first)` and then `send_nowait(second)`. They leave together if the channel can do
        that, and without a copy of `second`. If this raises, what has not left of both is `unsent`.
        """
        self.send_nowait(first)
        return self.send_nowait(second)

    @abstractmethod
    async def flush(self) -> None:
        """Wait until the kernel has taken everything, within `write_timeout`. Raises TimeoutError."""

    @property
    @abstractmethod
    def is_sending(self) -> bool:
        """Were bytes given that the kernel has not taken yet, and may still take?"""

    @property
    def is_cut(self) -> bool:
        """Can nothing more be sent, as a `flush()` that was cancelled has sent a part? Not on the hub, where
        the rest leaves all the same.
        """
        return False

    @property
    @abstractmethod
    def progress(self) -> tuple[int, int] | None:
        """What changes when the peer takes bytes, as long as nobody sends more: `kernel.progress`, and how
        many bytes are unsent. None if nobody knows.
        """

    @property
    def undelivered(self) -> int:
        """Bytes that the kernel has taken and the peer has not acknowledged; 0 if that cannot be known. Once
        the connection is dead, they stay so.
        """
        return 0

    @property
    def acknowledged(self) -> int | None:
        """All bytes that the peer's system has acknowledged; None if that cannot be known."""
        return None

    def limit_read(self, deadline: float) -> None:
        """Set `read_deadline`, also for a `receive()` that is under way."""
        self.read_deadline = deadline

    @abstractmethod
    def interrupt_read(self) -> None:
        """End a `receive()` that is under way with TimeoutError, as if its deadline had come. This also holds
        for a task that was woken and has not run yet. The next read returns the bytes that have arrived.
        """

    def interrupt_writes(self) -> None:
        """End every `flush()`, and every send of a file, that is under way with ConnectionResetError, though
        the connection stays open. On the hub, what was given before may still leave.
        """

    @abstractmethod
    async def send_eof(self) -> bool:
        """End the sending side. Reading goes on. False if the transport cannot do that."""

    @abstractmethod
    async def aclose(self) -> None:
        """Send what was given, within `write_timeout`, and close in the transport's orderly way. If that
        fails or is cancelled, do as `abort()`.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close at once and drop undelivered bytes. A TCP peer gets a reset, so that it cannot take a cut
        response for a whole one.
        """

    @abstractmethod
    async def cut(self) -> None:
        """Deliver what was given, within `write_timeout`. Then close so that the peer can tell that more was
        to come. Raises nothing but cancellation.
        """


class Channel(ByteChannel):
    """The bytes of one connection: its hang-up, what arrives unattended, files, and its end."""

    __slots__ = ("_file_left",)

    _file_left: int

    tells_of_hang_up = True
    """Does the channel notice a hang-up by itself? If not, `hung_up` changes only by a read or while a task
    waits in `wait_hung_up()`, and `on_hung_up` does nothing.
    """

    @property
    @abstractmethod
    def hung_up(self) -> bool:
        """Is it known that the peer has closed its sending side, or the whole connection?"""

    @property
    @abstractmethod
    def may_have_more(self) -> bool:
        """May bytes have arrived, or the end, that nobody has read? `on_unattended` does not tell of these
        again.
        """

    def send_soon(self, *pieces: bytes) -> bool:
        """As `send_nowait`, for one piece or several, when more may follow at once. Up to `CORK` bytes may be
        held back until all tasks that can run now have run.
        """
        return self.send_nowait(b"".join(pieces))

    def take_back(self, data: bytes) -> bool:  # noqa: ARG002 - for channels that hold bytes back
        """Do not send `data`, the object that was given to `send_soon` last. False if it may have left."""
        return False

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were given, also those of a file, but not taken by the kernel. After a failed send: the
        bytes that were lost.
        """

    @property
    def is_dead(self) -> bool:
        """Was the connection reset, or have both sides ended it? False if that cannot be known."""
        return False

    @property
    def is_broken(self) -> bool:
        """Is it known that the peer can take no more: as it `is_dead`, or as the peer has broken TLS?"""
        return self.is_dead

    async def send_file(self, fd: int, offset: int, count: int) -> None:
        """Send `count` bytes of a regular file from `offset` on. Memory holds one piece of it at a time
        (`net.files`).

        Raises EOFError if the file ends before, or cannot be read.
        """
        self._file_left = count
        for piece in read_in_pieces(fd, offset, count):
            self._file_left -= len(piece)
            if self.send_nowait(piece):
                await trio.lowlevel.checkpoint()
            else:
                await self.flush()

    @abstractmethod
    async def wait_hung_up(self) -> None:
        """Wait until `hung_up` is true, or until `release_watchers()` is called."""

    async def read_ahead(self) -> None:
        """Wait for bytes, or for the end, and keep them for `receive_nowait()`: for channels that do not
        notice by themselves what arrives (`tells_of_hang_up`). Ends also at `release_watchers()`.
        """

    @abstractmethod
    def release_watchers(self) -> None:
        """Make every `wait_hung_up()` and `read_ahead()` that is under way return now."""

    @abstractmethod
    def on_unattended(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever bytes or the end arrive and no task waits for them. It may also be called
        when `read_deadline` has passed and no task waits.
        """

    def call_back_soon(self) -> None:
        """Call what `on_unattended` was given, unless a task reads before the clock's next look."""

    @abstractmethod
    def on_hung_up(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the peer hangs up."""

    @property
    def has_unread(self) -> bool:
        """Has the kernel bytes that `receive_nowait()` does not see?"""
        return False

    @abstractmethod
    def drop_received(self, most: int) -> None:
        """Drop what has arrived, up to about `most` bytes, before a close: TCP resets a connection with bytes
        that nobody has read, and the peer loses what is on its way to it.
        """

    def finish(self) -> bool:
        """Do what `aclose()` does, if that needs no wait. False if it does: it must be awaited."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Close at once, in the transport's orderly way: what the kernel has taken is still delivered. What
        it has not taken is lost.
        """


class Delivery:
    """Tells whether the peer still takes bytes. The caller asks from time to time."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._left = sys.maxsize  # most callers never ask
        self._taken_at = -math.inf

    def goes_on(self) -> bool:
        """Are bytes undelivered, and has the peer taken some since the first question, within the channel's
        `write_timeout`?
        """
        left, now = self._channel.undelivered, trio.current_time()
        if left < self._left:
            self._left, self._taken_at = left, now
        return left > 0 and now - self._taken_at < self._channel.write_timeout and not self._channel.is_dead


async def wait_delivered(channel: Channel) -> None:
    """Wait until the peer's kernel has everything, or has taken nothing for the channel's `write_timeout`."""
    pause = FIRST_CHECK
    delivery = Delivery(channel)
    while delivery.goes_on():
        await trio.sleep(pause)
        pause = min(2 * pause, LONGEST_CHECK)
