"""`TLSChannel`: the `Channel` of a hub stream with TLS.

trio's SSLStream yields twice and takes two locks in every send, even if it need not wait. So `TLSChannel`
uses the SSLObject and its buffers itself. It takes the bytes that have arrived, and waits only if there are
none. `net.handshake` does the handshake, and `net.records` reads the records. This module sends, and waits.
"""

from __future__ import annotations

import math
import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

from trioasgi.net.channel import STALLED_READ, WRITE_SLICE
from trioasgi.net.corking import CorkingChannel
from trioasgi.net.handshake import HubHandshake, TLSStream
from trioasgi.net.kernel import MORE
from trioasgi.net.records import RecordReader, RecordState, why_failed
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.net.turns import wait_for_long_step

if TYPE_CHECKING:
    from collections.abc import Callable


_DRY: Final = RecordState.DRY
_FED: Final = RecordState.FED
_KEPT: Final = RecordState.KEPT

TURNS_BEFORE_YIELD: Final = 4
"""`receive()` lets other tasks run after so many turns of records without data."""

MAX_ANSWERS: Final = 16 * 1024
"""The most bytes of TLS's own answers that may be unsent because the client does not read them."""


async def start_tls(
    stream: trio.abc.Stream | HubStream, context: ssl.SSLContext, seconds: float
) -> TLSChannel | TLSStreamChannel | None:
    """Do the server's side of the handshake on `stream`, and return the channel of what is in it.

    None if it takes longer than `seconds`. Raises trio.BrokenResourceError, trio.ClosedResourceError or
    OSError if it fails. The stream stays open.
    """
    if isinstance(stream, HubStream):
        handshake = HubHandshake(stream, context)
        return TLSChannel(handshake, stream) if await handshake.do_handshake(seconds) else None
    tls = TLSStream(stream, context)
    return TLSStreamChannel(tls) if await tls.do_handshake(seconds) else None


class TLSStreamChannel(StreamChannel):
    """The channel of a TLS stream whose transport is not on the hub."""

    __slots__ = ("_tls", "ssl_object")

    def __init__(self, tls: TLSStream) -> None:
        super().__init__(tls.ssl_stream)
        self.ssl_object = tls.ssl_object
        self._tls = tls  # see its __del__


class TLSChannel(CorkingChannel):
    """The channel of a TLS stream whose transport is on the hub. Its handshake must be done."""

    __slots__ = (
        "_answers",
        "_handshake",
        "_is_new",
        "_outgoing",
        "_part_at",
        "_part_since",
        "_records",
        "_sent_close_notify",
        "_transport",
        "_unsent",
        "ssl_object",
    )

    def __init__(self, handshake: HubHandshake, transport: HubStream) -> None:
        self._transport = transport
        self._handshake = handshake  # see its __del__
        self.ssl_object = handshake.ssl_object
        self._outgoing = handshake.outgoing
        self._records = RecordReader(handshake.ssl_object, handshake.incoming)
        self._part_since = math.inf
        self._part_at = -math.inf
        self._answers = 0  # bytes of TLS's own answers since the transport had sent everything
        self._unsent: deque[memoryview] = deque()
        self._lost = 0
        self._corked = None
        self._corked_size = 0
        self._file_left = 0
        self._sent_close_notify = False
        self._is_new = True
        """Nothing was read yet: the handshake has just waited."""

    # The transport does the waiting, so it has the deadlines and knows of a hang-up.

    @property
    def read_deadline(self) -> float:
        return self._transport.read_deadline

    @read_deadline.setter
    def read_deadline(self, deadline: float) -> None:
        self._transport.read_deadline = deadline

    @property
    def write_timeout(self) -> float:
        return self._transport.write_timeout

    @write_timeout.setter
    def write_timeout(self, seconds: float) -> None:
        self._transport.write_timeout = seconds

    @property
    def hung_up(self) -> bool:
        return self._records.is_over or self._transport.hung_up

    @property
    def may_have_more(self) -> bool:
        return self._records.state is not _DRY or self._transport.may_have_more

    def now(self) -> float:
        return self._transport.now()

    @property
    def part(self) -> int:
        return self._records.part

    @property
    def part_since(self) -> float:
        return self._part_since

    @property
    def part_at(self) -> float:
        return self._part_at

    def _note_part(self) -> None:
        """Bytes have come, and none of them is the end of a record."""
        self._part_at = self.now()
        self._part_since = min(self._part_since, self._part_at)

    async def wait_hung_up(self) -> None:
        if not self.hung_up:
            await self._transport.wait_hung_up()

    @property
    def is_sending(self) -> bool:
        transport = self._transport
        return transport.is_sending or (bool(self._unsent) and transport.has_sent_all and not self._lost)

    @property
    def progress(self) -> tuple[int, int]:
        return self._transport.progress[0], self.unsent

    @property
    def acknowledged(self) -> int | None:
        return self._transport.acknowledged

    def release_watchers(self) -> None:
        self._transport.release_watchers()

    def limit_read(self, deadline: float) -> None:
        self._transport.limit_read(deadline)

    def call_back_soon(self) -> None:
        self._transport.call_back_soon()

    def interrupt_read(self) -> None:
        self._transport.interrupt_read()

    def interrupt_writes(self) -> None:
        self._transport.interrupt_writes()

    def on_unattended(self, callback: Callable[[], None]) -> None:
        self._transport.on_unattended(callback)

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        self._transport.on_hung_up(callback)

    # Reading

    def receive_nowait(self) -> bytes | None:
        """As `Channel.receive_nowait`. It reads one turn of records. If these have no data, it returns None,
        even if more records have arrived.
        """
        if self._sent_close_notify:
            return self._transport.receive_nowait()
        if self._records.state is _DRY:
            received = self._transport.receive_nowait()
            if received is None:
                return None
            self._records.feed(received)
            if self._records.state is _DRY:
                self._note_part()
        return self._read()

    def _read(self) -> bytes | None:
        """The data of the next turn of received records; b"" at the end, None if there is none."""
        records = self._records
        if records.state is _KEPT:
            records.feed_kept()
            if self._records.state is _DRY:
                self._note_part()
        if records.state is _FED:
            data = records.read()
            if self._outgoing.pending:
                self._answer()
            self._is_new = False
            self._part_since = math.inf
            if records.splits:
                self._note_part()
            if data is not None:
                return data
        if not records.is_over:
            return None
        if records.failure:
            raise self._failed(records.failure)
        return b""

    def _failed(self, why: str) -> OSError:
        """The error for TLS that has failed, by what the client has sent or on this side."""
        by_client = bool(self._records.failure)
        return (ConnectionResetError if by_client else ConnectionAbortedError)(f"TLS failed: {why}")

    async def receive(self) -> bytes:
        """As `Channel.receive`. It always lets other tasks run once."""
        if self._sent_close_notify:
            return await self._transport.receive()
        task, transport = current_task(), self._transport
        steps, interrupted = task._schedule_points, transport.interrupted
        turns = 0
        while True:
            if self._records.state is _DRY:
                self._records.feed(await transport.receive())
                if self._records.state is _DRY:
                    self._note_part()
            if task._schedule_points == steps and not self._is_new:
                # Before the read: another task may read meanwhile, and the bytes must keep their order.
                await trio.lowlevel.cancel_shielded_checkpoint()
            if transport.interrupted != interrupted:
                raise TimeoutError(STALLED_READ)
            data = self._read()
            if data is not None:
                return data
            turns += 1
            if self._records.state is _KEPT:
                # A turn of records without data, and there are more: one client may begin many of them.
                await wait_for_long_step()
                await trio.lowlevel.checkpoint_if_cancelled()
            elif turns % TURNS_BEFORE_YIELD:
                continue
            else:
                await trio.lowlevel.checkpoint()
            if self.now() >= self.read_deadline:
                raise TimeoutError(STALLED_READ)

    def _answer(self) -> None:
        """Send what OpenSSL answers by itself, for example a key update that the client has requested."""
        answer = self._outgoing.read()
        self._answers += len(answer)
        with suppress(OSError):  # the next send raises it
            if self._transport.send_nowait(answer):
                self._answers = 0
        if self._answers > MAX_ANSWERS:
            self._records.fail("the client does not read the answers that it asks for")

    # Writing

    @property
    def unsent(self) -> int:
        given = sum(map(len, self._unsent)) + self._lost + self._corked_size + self._file_left
        return given + self._transport.unsent

    @property
    def undelivered(self) -> int:
        return self._transport.undelivered

    @property
    def is_dead(self) -> bool:
        return self._transport.is_dead

    @property
    def is_broken(self) -> bool:
        return bool(self._records.failure) or self._transport.is_dead

    def send_nowait(self, data: bytes, flags: int = 0) -> bool:
        """As `Channel.send_nowait`. `flags` are of send(2), for the last record."""
        if self._corked:
            data = self._take_corked(data)
        view = memoryview(data)
        if not self._unsent:
            while len(view) > WRITE_SLICE:
                piece, view = view[:WRITE_SLICE], view[WRITE_SLICE:]
                try:
                    has_left = self._encrypt(piece)
                except OSError:
                    self._lost += len(view)
                    raise
                if not has_left:
                    self._unsent.append(view)
                    return False
            return self._encrypt(view, flags)
        if view:
            self._unsent.append(view)
        return False

    def send_soon(self, *pieces: bytes) -> bool:
        # Bytes are held back before they are encrypted. So they can be taken back, and leave in one record
        # with the bytes behind them. If the transport has unsent bytes, these have to wait anyway.
        if self._unsent or self._transport.unsent:
            return self.send_nowait(b"".join(pieces))
        return self._hold_back(pieces, self._transport.hub)

    def _encrypt(self, piece: memoryview, flags: int = 0) -> bool:
        if piece:
            try:
                self.ssl_object.write(piece)
            except ssl.SSLError as exc:
                self._lost += len(piece)
                raise self._failed(why_failed(exc)) from exc
        return self._transport.send_nowait(self._outgoing.read(), flags)

    async def flush(self) -> None:
        if self._corked is None and not self._unsent and not self._lost and self._transport.has_sent_all:
            return
        try:
            await self._flush()
        except trio.Cancelled:
            # The transport sends its part as soon as there is room. What is not encrypted yet has to follow.
            if self._unsent:
                self._transport.on_emptied = self._send_on
            raise

    def _send_on(self) -> None:
        while self._unsent and self._encrypt(self._take_slice()):
            pass

    def _take_slice(self) -> memoryview:
        view = self._unsent.popleft()
        if len(view) > WRITE_SLICE:
            self._unsent.appendleft(view[WRITE_SLICE:])
            view = view[:WRITE_SLICE]
        return view

    async def _flush(self) -> None:
        self.uncork()
        await self._transport.flush()
        if self._lost:
            raise self._failed("a piece of what was to be sent was lost")
        # Another task may take our bytes from `_unsent`. They have left when the transport has none either.
        while self._unsent or self._transport.unsent:
            if self._unsent and self._encrypt(self._take_slice()):
                continue
            await self._transport.flush()

    # The end

    async def send_eof(self) -> bool:
        """Send close_notify (RFC 8446, 6.1), and then the end of TCP.

        Later reads return the bytes without decrypting them: the caller only drops them.
        """
        self._send_close_notify()
        if not self._transport.has_sent_all:
            await self._transport.flush()
        self._transport.end_sending()
        return True

    def _send_close_notify(self) -> None:
        """Send close_notify behind the data, in one segment with the end of TCP that the caller sends next.
        Both may be unsent when this returns.
        """
        if self._sent_close_notify:
            return
        self._sent_close_notify = True
        try:
            self.ssl_object.unwrap()  # raises, because it wants the peer's close_notify, which may not come
        except ssl.SSLError:
            pass
        try:
            self._transport.send_nowait(self._outgoing.read(), MORE)
        except OSError:
            pass

    def drop_received(self, most: int) -> None:
        self._transport.drop_received(most)

    def finish(self) -> bool:
        self.uncork()
        if self._unsent or self._lost or not self._transport.has_sent_all:
            return False
        self._send_close_notify()
        return self._transport.finish()

    def close(self) -> None:
        self._transport.close()

    async def aclose(self) -> None:
        if self._transport.is_writing:
            self._transport.abort()  # as `HubChannel.aclose`: the other task's send must end at once
            await trio.lowlevel.checkpoint()
            return
        try:
            await self.flush()
            self._send_close_notify()
        except OSError:
            pass  # if TLS alone has failed, what left before must still arrive; TCP resets if it has failed
        except BaseException:
            self._transport.abort()
            raise
        if not self._transport.finish():
            await self._transport.aclose()

    async def cut(self) -> None:
        try:
            with suppress(OSError):
                await self.flush()
            await self._transport.cut()
        finally:
            self._transport.abort()

    def abort(self) -> None:
        self._transport.abort()
