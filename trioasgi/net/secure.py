"""TLS: the server's side of the handshake, and `TLSChannel`, which is a hub stream with TLS on it.

trio's SSLStream yields twice and takes two locks in every send, whether there is anything to wait for or
not. Here the same SSLObject and buffers are used in the steps that a `Channel` has: take what is there, and
only then wait. `net.records` reads the records; here are the waits, and what is sent.
"""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast

import trio
from trio.lowlevel import current_task

from trioasgi.net.channel import CORK, STALLED_READ, WRITE_SLICE, Channel
from trioasgi.net.hello import HANDSHAKE_FAILURE, HelloReader
from trioasgi.net.records import RecordReader, RecordState
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.net.turns import wait_for_long_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.net.stream import HubStream

_DRY: Final = RecordState.DRY
_FED: Final = RecordState.FED
_KEPT: Final = RecordState.KEPT

TURNS_BEFORE_YIELD: Final = 4
"""Turns without a byte for the reader after which other tasks run."""

HANDSHAKE_READ_SIZE: Final = 4096
"""The most bytes that are read in one go before the handshake is done: they may be 800 empty records."""

MAX_ANSWERS: Final = 16 * 1024
"""Bytes of TLS's own answers that may wait for a client that does not read them."""


class TLSStream:
    """The server's `trio.SSLStream` on a transport, with the SSLObject and the two buffers that it uses.

    `TLSChannel` and the handshake below use those three. SSLStream has no public names for them, but it hands
    both buffers to the `wrap_bio` of its context, which makes the SSLObject.
    """

    __slots__ = ("_transport", "incoming", "outgoing", "ssl_object", "ssl_stream")

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    ssl_object: ssl.SSLObject

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext) -> None:
        def wrap_bio(
            incoming: ssl.MemoryBIO,
            outgoing: ssl.MemoryBIO,
            server_side: bool,
            server_hostname: str | bytes | None,
        ) -> ssl.SSLObject:
            self.incoming, self.outgoing = incoming, outgoing
            self.ssl_object = context.wrap_bio(incoming, outgoing, server_side, server_hostname)
            return self.ssl_object

        self._transport = transport
        # SSLStream needs nothing else of its context
        # (test_the_session_tickets_leave_with_the_handshake_and_the_stream_can_be_used).
        only_wrap_bio = cast("ssl.SSLContext", SimpleNamespace(wrap_bio=wrap_bio))
        self.ssl_stream = trio.SSLStream(transport, only_wrap_bio, server_side=True)

    def __del__(self) -> None:
        # An SSLStream refers to itself. Without this only the garbage collector would free it, and what
        # OpenSSL has allocated for the connection. The channel, or the handshake, is the last to use it: it
        # holds this object, so this runs at once, however the connection has ended.
        with suppress(AttributeError):  # `wrap_bio` has failed
            vars(self.ssl_stream).clear()

    async def do_handshake(self) -> None:
        """Agree on TLS. Raises trio.BrokenResourceError, as SSLStream does.

        Not SSLStream's own: that keeps the session tickets of TLS 1.3 until something else is sent. So
        nothing would answer the client's last message. A client with Nagle's algorithm then waits for the
        delayed acknowledgement of TCP (40 ms on Linux) before it sends its request. SSLStream shakes hands
        before its first use, and finds that it is done.
        """
        hellos = HelloReader()
        done = False
        while not done:
            try:
                self.ssl_object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLError, ssl.CertificateError) as exc:
                await self._send_outgoing()  # the alert that says why
                raise trio.BrokenResourceError from exc
            await self._send_outgoing()
            if not done:
                await self._receive(hellos)

    async def _send_outgoing(self) -> None:
        data = self.outgoing.read()
        if data:
            await self._transport.send_all(data)

    async def _receive(self, hellos: HelloReader) -> None:
        data = await self._transport.receive_some(HANDSHAKE_READ_SIZE)
        if not data:
            self.incoming.write_eof()
            return
        if hellos.feed(bytes(data)):
            # The hello is searched, and answered by a signature. However many clients come at once, others
            # run in between.
            await wait_for_long_step()
            slow_group = hellos.find_slow_group()
            if slow_group:
                await self._transport.send_all(HANDSHAKE_FAILURE)
                raise trio.BrokenResourceError(
                    f"the client wants a key exchange that takes too long ({slow_group})"
                )
        self.incoming.write(data)


class TLSStreamChannel(StreamChannel):
    """The channel of `tls` where there is no hub."""

    __slots__ = ("_tls",)

    def __init__(self, tls: TLSStream) -> None:
        super().__init__(tls.ssl_stream)
        self._tls = tls  # it ends the SSLStream when it is freed


class TLSChannel(Channel):
    """The channel of `tls` on `transport`, once the handshake is done."""

    __slots__ = (
        "_answers",
        "_corked",
        "_corked_size",
        "_outgoing",
        "_records",
        "_sent_close_notify",
        "_ssl_object",
        "_tls",
        "_transport",
        "_unsent",
    )

    def __init__(self, tls: TLSStream, transport: HubStream) -> None:
        self._transport = transport
        self._tls = tls  # it ends the SSLStream when it is freed
        self._ssl_object = tls.ssl_object
        self._outgoing = tls.outgoing
        self._records = RecordReader(tls.ssl_object, tls.incoming)
        self._answers = 0  # bytes of them since the transport had nothing unsent
        self._unsent: deque[memoryview] = deque()
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self._file_left = 0
        self._sent_close_notify = False

    # Waits happen in the transport: its deadlines and its hang-up are the ones that count.

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

    async def wait_hung_up(self) -> None:
        if not self.hung_up:
            await self._transport.wait_hung_up()

    def release_watchers(self) -> None:
        self._transport.release_watchers()

    def interrupt_read(self) -> None:
        self._transport.interrupt_read()

    def on_unattended(self, callback: Callable[[], None]) -> None:
        self._transport.on_unattended(callback)

    def on_hung_up(self, callback: Callable[[], None]) -> None:
        self._transport.on_hung_up(callback)

    # Reading

    def receive_nowait(self) -> bytes | None:
        """As `Channel.receive_nowait`. None as well after a turn of records that held nothing, whatever
        comes behind them.
        """
        if self._sent_close_notify:
            return self._transport.receive_nowait()
        if self._records.state is _DRY:
            received = self._transport.receive_nowait()
            if received is None:
                return None
            self._records.feed(received)
        return self._read()

    def _read(self) -> bytes | None:
        """What there is in the records that were received, for one turn; b"" at the end, None if nothing."""
        records = self._records
        if records.state is _KEPT:
            records.feed_kept()
        if records.state is _FED:
            data = records.read()
            if self._outgoing.pending:
                self._answer()
            if data is not None:
                return data
        if not records.is_over:
            return None
        if records.failure:
            raise ConnectionAbortedError(f"TLS failed: {records.failure}")
        return b""

    async def receive(self) -> bytes:
        """As `Channel.receive`. Others come to their turn, though there may be something by now."""
        if self._sent_close_notify:
            return await self._transport.receive()
        task, transport = current_task(), self._transport
        steps, interrupted = task._schedule_points, transport.interrupted
        turns = 0
        while True:
            if self._records.state is _DRY:
                self._records.feed(await transport.receive())
            if task._schedule_points == steps:
                # Now, and not with bytes in our hands: somebody else may read meanwhile.
                await trio.lowlevel.cancel_shielded_checkpoint()
            if transport.interrupted != interrupted:
                raise TimeoutError(STALLED_READ)
            data = self._read()
            if data is not None:
                return data
            turns += 1
            if turns % TURNS_BEFORE_YIELD == 0:
                await trio.lowlevel.checkpoint()
                if self.now() >= self.read_deadline:
                    raise TimeoutError(STALLED_READ)

    def _answer(self) -> None:
        """Send what TLS itself has to say: to a key update that asks for one, for example."""
        answer = self._outgoing.read()
        self._answers += len(answer)
        with suppress(OSError):  # the next send tells
            if self._transport.send_nowait(answer):
                self._answers = 0
        if self._answers > MAX_ANSWERS:
            self._records.fail("the client does not read the answers that it asks for")

    # Writing

    @property
    def unsent(self) -> int:
        return sum(map(len, self._unsent)) + self._corked_size + self._file_left + self._transport.unsent

    @property
    def undelivered(self) -> int:
        return self._transport.undelivered

    def send_nowait(self, data: bytes) -> bool:
        if self._corked:
            corked, self._corked, self._corked_size = self._corked, None, 0
            data = b"".join([*corked, data])
        view = memoryview(data)
        if not self._unsent:
            while len(view) > WRITE_SLICE:
                if not self._encrypt(view[:WRITE_SLICE]):
                    self._unsent.append(view[WRITE_SLICE:])
                    return False
                view = view[WRITE_SLICE:]
            return self._encrypt(view)
        if view:
            self._unsent.append(view)
        return False

    def send_soon(self, data: bytes) -> bool:
        # Held back before it is encrypted: it can still be taken back, and becomes one record with the rest.
        # Behind what the transport has not sent, or could not send, there is nothing to hold back for.
        if self._unsent or len(data) >= CORK or self._transport.unsent:
            return self.send_nowait(data)
        self._corked_size += len(data)
        if self._corked is None:
            self._corked = [data]
            self._transport.hub.flush_soon(self)
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
        if self._corked is not None:
            try:
                self.send_nowait(b"")
            except OSError:
                pass
            self._corked = None

    def _encrypt(self, piece: memoryview) -> bool:
        if piece:
            try:
                self._ssl_object.write(piece)
            except ssl.SSLError as exc:
                raise ConnectionAbortedError(f"TLS failed: {exc.reason or exc}") from exc
        return self._transport.send_nowait(self._outgoing.read())

    async def flush(self) -> None:
        self.uncork()
        await self._transport.flush()
        # Another task may take what is ours from `_unsent`: it has left when the transport has none either.
        while self._unsent or self._transport.unsent:
            if self._unsent:
                view = self._unsent.popleft()
                if len(view) > WRITE_SLICE:
                    self._unsent.appendleft(view[WRITE_SLICE:])
                    view = view[:WRITE_SLICE]
                if self._encrypt(view):
                    continue
            await self._transport.flush()

    # The end

    async def send_eof(self) -> None:
        """Send close_notify (RFC 8446, 6.1), and TCP's own end behind it.

        What is still received is not decrypted any more: it can only be meant to be dropped.
        """
        self._send_close_notify()
        await self._transport.flush()
        await self._transport.send_eof()

    def _send_close_notify(self) -> None:
        """Put close_notify behind what was sent: the peer may take its time with both."""
        if self._sent_close_notify:
            return
        self._sent_close_notify = True
        with suppress(ssl.SSLError):
            self._ssl_object.unwrap()  # it asks for the peer's, which nobody waits for
        with suppress(OSError):
            self._transport.send_nowait(self._outgoing.read())

    async def aclose(self) -> None:
        try:
            await self.flush()
            self._send_close_notify()
        except OSError:
            self._transport.abort()
        except BaseException:
            self._transport.abort()
            raise
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
