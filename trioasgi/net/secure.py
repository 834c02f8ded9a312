"""`TLSChannel`: TLS on a hub stream, without a coroutine for each record.

trio's SSLStream yields twice and takes two locks in every send, whether there is anything to wait for or
not. Here the same SSLObject and buffers are used in the steps that a `Channel` has: take what is there, and
only then wait.

A client chooses how much work its bytes are: a record of 16 KiB, one of a single byte, or one that holds
nothing for us (a key update: RFC 8446, 4.6.3). So OpenSSL is given so many records at a time, not bytes, and
others run in between.
"""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, cast

import trio
from trio.lowlevel import current_task

from trioasgi.net.channel import CORK, READ_SIZE, STALLED_READ, WRITE_SLICE, Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.net.stream import HubStream

RECORDS_A_TURN: Final = 64
"""Records that are decrypted in one go."""

TURNS_BEFORE_YIELD: Final = 4
"""Turns without a byte for the reader after which other tasks run."""

MAX_EMPTY_RECORDS: Final = 2048
"""Records in a row without a byte for the reader after which the connection is closed."""

MAX_ANSWERS: Final = 16 * 1024
"""Bytes of TLS's own answers that may wait for a client that does not read them."""

_HEADER: Final = 5
"""Bytes before each record: its type, a version, and its length in two bytes (RFC 8446, 5.1)."""

_MAX_RECORD: Final = (1 << 14) + 256
"""Bytes of the longest record (RFC 8446, 5.2): OpenSSL refuses a longer one by its header."""


class Secured:
    """The server's side of TLS on a stream: trio's SSLStream, and what that is made of.

    It stands in for the SSLContext where SSLStream makes its SSLObject, the one moment at which all of it
    can be seen.
    """

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    ssl_object: ssl.SSLObject

    def __init__(self, stream: trio.abc.Stream, context: ssl.SSLContext) -> None:
        self._context = context
        self._transport = stream
        self.stream = trio.SSLStream(stream, cast("ssl.SSLContext", self), server_side=True)

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool,
        server_hostname: str | bytes | None,
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`."""
        self.incoming = incoming
        self.outgoing = outgoing
        self.ssl_object = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname)
        return self.ssl_object

    async def do_handshake(self) -> None:
        """Agree on TLS. Raises trio.BrokenResourceError, as SSLStream does.

        SSLStream would keep the session tickets of TLS 1.3 back until something is sent. Then nothing answers
        the client's last message of the handshake, and a client with Nagle's algorithm holds its request
        back until that is acknowledged: 40 ms. (When it is used, it finds that nothing is left to be done.)
        """
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
                await self._receive()

    async def _send_outgoing(self) -> None:
        data = self.outgoing.read()
        if data:
            await self._transport.send_all(data)

    async def _receive(self) -> None:
        data = await self._transport.receive_some(READ_SIZE)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()


class TLSChannel(Channel):
    """The channel of `secured` on `transport`, once hands were shaken."""

    __slots__ = (
        "_answers",
        "_corked",
        "_corked_size",
        "_dry",
        "_empty_records",
        "_ended",
        "_eof",
        "_failure",
        "_incoming",
        "_object",
        "_outgoing",
        "_received",
        "_skip",
        "_transport",
        "_unsent",
    )

    def __init__(self, secured: Secured, transport: HubStream) -> None:
        self._transport = transport
        self._object = secured.ssl_object
        self._incoming = secured.incoming
        self._outgoing = secured.outgoing
        # What came with the handshake's end begins with a record: OpenSSL reads no further than it must.
        self._received = self._incoming.read()
        self._skip = 0  # bytes of a record that have yet to come
        self._dry = True  # is it known that OpenSSL has no record left?
        self._empty_records = 0
        self._answers = 0
        self._unsent: deque[memoryview] = deque()
        self._corked: list[bytes] | None = None
        self._corked_size = 0
        self._file_left = 0
        self._eof = False
        self._failure = ""
        self._ended = False

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
        return self._eof or self._transport.hung_up

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
        if self._ended:
            return self._transport.receive_nowait()
        if self._eof:
            return self._at_end()
        if self._dry and self._received:
            self._feed()
        if self._dry:  # of a record's beginning alone there is nothing to be had
            received = self._transport.receive_nowait()
            if received is None or not self._take(received):
                return None
        return self._decrypt()

    async def receive(self) -> bytes:
        """As `Channel.receive`. Others come to their turn, though there may be something by now."""
        if self._ended:
            return await self._transport.receive()
        task, transport = current_task(), self._transport
        steps, interrupted = task._schedule_points, transport.interrupted
        turns = 0
        while True:
            if self._dry and len(self._received) < _HEADER and not self._eof:
                self._take(await transport.receive())
            if task._schedule_points == steps:
                # Now, and not with bytes in our hands: somebody else may read meanwhile.
                await trio.lowlevel.cancel_shielded_checkpoint()
            if transport.interrupted != interrupted:
                raise TimeoutError(STALLED_READ)
            data = self.receive_nowait()
            if data is not None:
                return data
            turns += 1
            if turns % TURNS_BEFORE_YIELD == 0:
                await trio.lowlevel.checkpoint()
                if self.now() >= self.read_deadline:
                    raise TimeoutError(STALLED_READ)

    def _take(self, received: bytes) -> bool:
        """Take bytes off the wire, or their end; is there something to decrypt?"""
        size = len(received)
        if (
            size > _HEADER
            and size == _HEADER + (received[3] << 8 | received[4])
            and not self._received
            and not self._skip
        ):
            # Nearly always: one record, and nothing else.
            self._incoming.write(received)
            self._empty_records += 1
            self._dry = False
            return True
        if not received:
            self._feed_end()
            return True
        self._received += received
        return self._feed()

    def _feed(self) -> bool:
        """Give OpenSSL the next records, as many as are for one turn; False if there is nothing to give."""
        received = self._received
        size, end = len(received), self._skip
        whole = 0 if not end or end > size else 1
        for _ in range(RECORDS_A_TURN):
            if end + _HEADER > size:
                break
            length = received[end + 3] << 8 | received[end + 4]
            end += _HEADER + length
            whole += end <= size or length > _MAX_RECORD
        if not end or not size:
            return False
        if end < size:
            self._incoming.write(received[:end])
            self._received = received[end:]
            self._skip = 0
        else:
            self._incoming.write(received)
            self._received = b""
            self._skip = end - size
        self._empty_records += whole
        self._dry = not whole
        return True

    def _feed_end(self) -> None:
        self._incoming.write(self._received)  # less than a header
        self._received = b""
        self._incoming.write_eof()
        self._dry = False

    def _decrypt(self) -> bytes | None:
        """What the records hold that OpenSSL was given, up to about READ_SIZE; b"" at the end, None if they
        hold nothing.
        """
        piece = self._read_record()
        if self._dry and piece and not self._outgoing.pending:
            self._empty_records = 0
            return piece
        pieces = [] if piece is None else [piece]
        size = 0 if piece is None else len(piece)
        while not self._dry and size < READ_SIZE:
            piece = self._read_record()
            if piece is not None:
                pieces.append(piece)
                size += len(piece)
        if self._outgoing.pending:
            self._answer()
        if pieces:
            self._empty_records = 0
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._eof:
            return self._at_end()
        if self._empty_records > MAX_EMPTY_RECORDS:
            self._fail("too many records that hold nothing")
            return self._at_end()
        return None

    def _read_record(self) -> bytes | None:
        """What one record holds; None if there is none left, or never will be."""
        try:
            data = self._object.read(READ_SIZE)
        except ssl.SSLWantReadError:
            self._dry = True
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # With close_notify or without: many clients just close, and HTTP's messages say themselves where
            # they end (RFC 9112, 9.8).
            self._eof = self._dry = True
            return None
        except ssl.SSLError as exc:
            self._fail(exc.reason or str(exc))
            return None
        # To be told by an exception that there is nothing left would cost more than to ask.
        self._dry = not self._incoming.pending and not self._object.pending()
        if not data:
            self._eof = self._dry = True
        return data or None

    def _fail(self, reason: str) -> None:
        self._eof = self._dry = True
        self._failure = reason

    def _at_end(self) -> bytes:
        if self._failure:
            raise ConnectionAbortedError(f"TLS failed: {self._failure}")
        return b""

    def _answer(self) -> None:
        """Send what TLS itself has to say: to a key update that asks for one, for example."""
        answer = self._outgoing.read()
        self._answers += len(answer)
        with suppress(OSError):  # the next send tells
            if self._transport.send_nowait(answer):
                self._answers = 0
        if self._answers > MAX_ANSWERS:
            self._fail("the client does not read the answers that it asks for")

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
            with suppress(OSError):
                self.send_nowait(b"")
            self._corked = None

    def _encrypt(self, piece: memoryview) -> bool:
        if piece:
            try:
                self._object.write(piece)
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
        self._say_goodbye()
        await self._transport.flush()
        await self._transport.send_eof()

    def _say_goodbye(self) -> None:
        """Put close_notify behind what was sent: the peer may take its time with both."""
        if self._ended:
            return
        self._ended = True
        with suppress(ssl.SSLError):
            self._object.unwrap()  # it asks for the peer's, which nobody waits for
        with suppress(OSError):
            self._transport.send_nowait(self._outgoing.read())

    async def aclose(self) -> None:
        try:
            await self.flush()
            self._say_goodbye()
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
