"""`TLSChannel`: TLS on a hub stream, without a coroutine for each record.

trio's SSLStream yields twice and takes two locks in every send, whether there is anything to wait for or
not. Here the handshake, ALPN and the closing are SSLStream's; what lies between them is done with the same
SSLObject and the same buffers, in the steps that a `Channel` has: take what is there, and only then wait.
"""

from __future__ import annotations

import ssl
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import trio

from trioasgi.net.channel import READ_SIZE, WRITE_SLICE, Channel

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.net.stream import HubStream


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


class TLSChannel(Channel):
    """The channel of `secured` on `transport`, once hands were shaken.

    The first bytes are sent by SSLStream: with TLS 1.3 it holds the session tickets back until then, and
    they are counted among the records.
    """

    __slots__ = (
        "_aborted",
        "_dry",
        "_ended",
        "_eof",
        "_incoming",
        "_object",
        "_opening",
        "_outgoing",
        "_stream",
        "_transport",
        "_unsent",
    )

    def __init__(self, secured: Secured, transport: HubStream) -> None:
        self._transport = transport
        self._stream = secured.stream
        self._object = secured.ssl_object
        self._incoming = secured.incoming
        self._outgoing = secured.outgoing
        self._opening: trio.Lock | None = trio.Lock()
        self._unsent: deque[memoryview] = deque()
        self._eof = False
        self._dry = False  # is it known that no record is left to be read?
        self._aborted = False
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
        if self._ended:
            return self._transport.receive_nowait()
        while True:
            data = None if self._dry else self._decrypt()
            if data is not None:
                return data
            received = self._transport.receive_nowait()
            if received is None:
                return None
            self._feed(received)

    async def receive(self) -> bytes:
        if self._ended:
            return await self._transport.receive()
        while True:
            data = self.receive_nowait()
            if data is not None:
                return data
            self._feed(await self._transport.receive())

    def _feed(self, received: bytes) -> None:
        self._dry = False
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    def _decrypt(self) -> bytes | None:
        """What one record holds; b"" at the end, None if no whole record is there."""
        if self._eof:
            return b""
        try:
            data = self._object.read(READ_SIZE)
        except ssl.SSLWantReadError:
            data = None
            self._dry = True
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # With close_notify or without: many clients just close, and HTTP's messages say themselves where
            # they end (RFC 9112, 9.8).
            self._eof = True
            return b""
        except ssl.SSLError as exc:
            self._eof = True
            raise ConnectionAbortedError(f"TLS failed: {exc.reason or exc}") from exc
        else:
            # To be told by an exception that there is nothing left would cost more than to ask.
            self._dry = not self._incoming.pending and not self._object.pending()
        if self._outgoing.pending and self._opening is None:
            # An answer of TLS's own, to a key update for example. Before the first bytes it waits for them.
            self._transport.send_nowait(self._outgoing.read())
        return data

    # Writing

    def send_nowait(self, data: bytes) -> bool:
        view = memoryview(data)
        if self._opening is None and not self._unsent:
            while len(view) > WRITE_SLICE:
                if not self._encrypt(view[:WRITE_SLICE]):
                    self._unsent.append(view[WRITE_SLICE:])
                    return False
                view = view[WRITE_SLICE:]
            return self._encrypt(view)
        self._unsent.append(view)
        return False

    def send_soon(self, data: bytes) -> bool:
        if self._opening is not None or self._unsent or len(data) > WRITE_SLICE:
            return self.send_nowait(data)
        self._write(memoryview(data))
        return self._transport.send_soon(self._outgoing.read())

    def _encrypt(self, piece: memoryview) -> bool:
        self._write(piece)
        return self._transport.send_nowait(self._outgoing.read())

    def _write(self, piece: memoryview) -> None:
        if piece:
            try:
                self._object.write(piece)
            except ssl.SSLError as exc:
                raise ConnectionAbortedError(f"TLS failed: {exc.reason or exc}") from exc

    async def flush(self) -> None:
        if self._opening is not None:
            await self._open(self._opening)
        await self._transport.flush()
        while self._unsent:
            view = self._unsent.popleft()
            if len(view) > WRITE_SLICE:
                self._unsent.appendleft(view[WRITE_SLICE:])
                view = view[:WRITE_SLICE]
            if not self._encrypt(view):
                await self._transport.flush()

    async def _open(self, opening: trio.Lock) -> None:
        async with opening:
            if self._opening is None or not self._unsent:
                return
            view = self._unsent.popleft()
            if len(view) > WRITE_SLICE:
                self._unsent.appendleft(view[WRITE_SLICE:])
                view = view[:WRITE_SLICE]
            try:
                await self._stream.send_all(view)
            except trio.BrokenResourceError as exc:
                raise ConnectionResetError("the connection was broken") from exc
            except trio.ClosedResourceError as exc:
                raise ConnectionAbortedError("this side has closed the connection") from exc
            self._opening = None

    # The end

    async def send_eof(self) -> None:
        """Send close_notify (RFC 8446, 6.1), and TCP's own end behind it.

        What is still received is not decrypted any more: it can only be meant to be dropped.
        """
        if self._opening is None:
            with suppress(ssl.SSLError):
                self._object.unwrap()  # it asks for the peer's, which nobody waits for
            with suppress(OSError):
                self._transport.send_nowait(self._outgoing.read())
        self._ended = True
        await self._transport.send_eof()

    async def aclose(self) -> None:
        try:
            if self._aborted or self._ended:
                await trio.aclose_forcefully(self._stream)
            else:
                await self._stream.aclose()
        except (trio.BrokenResourceError, TimeoutError):
            pass  # the peer has gone before it could be told

    def abort(self) -> None:
        self._aborted = True
        self._transport.abort()
