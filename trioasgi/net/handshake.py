"""TLS: the server's side of the handshake.

On the readiness hub a handshake waits only for bytes of the client, or for room in the kernel's buffer. It
needs no cancel scope, because its deadline is that of the reads.
"""

from __future__ import annotations

import math
import ssl
from abc import ABC, abstractmethod
from contextlib import suppress
from types import SimpleNamespace
from typing import Final, cast

import trio
from trio.lowlevel import current_task

from trioasgi.net.channel import STALLED_READ, STALLED_WRITE
from trioasgi.net.hello import HANDSHAKE_FAILURE, UNRECOGNIZED_NAME, HelloReader
from trioasgi.net.stream import HubStream, as_stream
from trioasgi.net.tick_clock import TickLimit
from trioasgi.net.turns import take_long_step, wait_for_long_step

HANDSHAKE_READ_SIZE: Final = 4096
"""The most bytes of one read during the handshake. So many bytes can be 800 empty records, each of which
costs time.
"""


LATE_SECONDS: Final = 1.0
"""The loop was late, and the deadline has passed: so long may the client take for its next message."""


class RefusedError(trio.BrokenResourceError):
    """OpenSSL has refused what the client has sent. `data` is the last of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class SlowGroupError(trio.BrokenResourceError):
    """The client wants a key exchange that takes too long."""


class ForeignNameError(trio.BrokenResourceError):
    """The client asks for a server name that is not ASCII, and the certificate is chosen by the name."""


class Handshake(ABC):
    """The server's side of TLS on one connection: the SSLObject, its two buffers, and the handshake."""

    __slots__ = ("incoming", "outgoing", "ssl_object")

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    ssl_object: ssl.SSLObject

    @abstractmethod
    async def do_handshake(self, seconds: float) -> bool:
        """Do the handshake. False if it takes longer than `seconds`. Raises trio.BrokenResourceError, as
        trio's SSLStream does, or OSError.

        This replaces SSLStream's own handshake, which holds the session tickets of TLS 1.3 back until the
        first send. Then nothing answers the client's last message. A client with Nagle's algorithm would wait
        for TCP's delayed acknowledgement (40 ms on Linux) before it sends its request.
        """

    @abstractmethod
    async def _receive(self) -> bytes:
        """The next bytes of the client, up to `HANDSHAKE_READ_SIZE`."""

    @abstractmethod
    async def _send(self, data: bytes) -> None:
        """Send `data`, which may be empty."""

    async def _do_handshake(self) -> None:
        # Python could not pass such a name to the callback, and would write a traceback to stderr.
        hellos = HelloReader(reads_names=self.ssl_object.context.sni_callback is not None)
        done = False
        while not done:
            data = await self._receive()
            if data:
                if hellos.feed(data):
                    await self._refuse_slow_group(hellos)
                self.incoming.write(data)
            else:
                self.incoming.write_eof()
            try:
                self.ssl_object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLError, ssl.CertificateError) as exc:
                await self._send(self.outgoing.read())  # the alert
                raise RefusedError(data) from exc
            answer = self.outgoing.read()
            if answer:
                if not done:
                    hellos.note_answer(answer)
                await self._send(answer)

    async def _refuse_slow_group(self, hellos: HelloReader) -> None:
        # The search and the server's signature are one long step.
        if not take_long_step():
            await wait_for_long_step()
        slow_group = hellos.find_slow_group()
        if slow_group:
            await self._send(HANDSHAKE_FAILURE)
            raise SlowGroupError(f"the client wants a key exchange that takes too long ({slow_group})")
        if hellos.has_foreign_name:
            await self._send(UNRECOGNIZED_NAME)
            raise ForeignNameError("the client asks for a server name that is not ASCII")


class TLSStream(Handshake):
    """The handshake of a `trio.SSLStream` on any stream.

    It uses the SSLObject and the buffers of that SSLStream, which has no public names for them. But it passes
    both buffers to the `wrap_bio` of its context, which returns the SSLObject.
    """

    __slots__ = ("_transport", "ssl_stream")

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
        # SSLStream uses nothing else of its context
        # (test_the_session_tickets_leave_with_the_handshake_and_the_stream_can_be_used).
        only_wrap_bio = cast("ssl.SSLContext", SimpleNamespace(wrap_bio=wrap_bio))
        self.ssl_stream = trio.SSLStream(transport, only_wrap_bio, server_side=True)

    def __del__(self) -> None:
        # An SSLStream refers to itself, so only the garbage collector would free it and the memory of
        # OpenSSL. The handshake holds this object, and then the channel does. When both are over, nobody uses
        # the SSLStream any more, however the connection has ended. This breaks the circle.
        with suppress(AttributeError):  # `wrap_bio` has failed: there is no SSLStream
            vars(self.ssl_stream).clear()

    async def do_handshake(self, seconds: float) -> bool:
        """As of `Handshake`. If the SSLStream is used afterwards, it calls the SSLObject's handshake, which
        returns at once.
        """
        # With `fail_after`, Python 3.12 and 3.13 keep the connection until the garbage collector runs
        # (test_a_tls_connection_that_ends_leaves_nothing_to_the_collector).
        with TickLimit(seconds) as limit:
            await self._do_handshake()
        return not limit.is_over

    async def _receive(self) -> bytes:
        return bytes(await self._transport.receive_some(HANDSHAKE_READ_SIZE))

    async def _send(self, data: bytes) -> None:
        if data:
            await self._transport.send_all(data)


class HubHandshake(TLSStream):
    """The handshake of a `trio.SSLStream` on a stream of the hub. It does not use the SSLStream itself, which
    yields twice and takes two locks in every send.
    """

    __slots__ = ("_deadline", "_late_seconds", "_steps", "_stream")

    def __init__(self, stream: HubStream, context: ssl.SSLContext) -> None:
        super().__init__(as_stream(stream), context)
        self._stream = stream
        self._deadline = math.inf
        self._late_seconds = LATE_SECONDS  # 0 when they are granted
        self._steps = -1  # the task's steps when it read last

    async def do_handshake(self, seconds: float) -> bool:
        self._set_deadline(seconds)
        try:
            await self._do_handshake()
        except TimeoutError:
            if self._stream.now() < self._deadline:
                raise  # it is the kernel's
            return False
        self._stream.read_deadline = math.inf
        return True

    async def _receive(self) -> bytes:
        task = current_task()
        if task._schedule_points == self._steps and self._stream.may_have_more:
            # The last read did not wait, and this one need not. A client that sends more and more must not
            # keep the others waiting.
            await trio.lowlevel.checkpoint()
        if self._stream.now() >= self._deadline:
            if not self._late_seconds:
                raise TimeoutError(STALLED_READ)
            # The last message came late, or was taken late. If the loop was blocked, the client has had no
            # time for this one. A cancel scope that counts ticks would take longer than this all.
            self._set_deadline(self._late_seconds)
            self._late_seconds = 0.0
        self._steps = task._schedule_points
        return await self._stream.receive(HANDSHAKE_READ_SIZE)

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self._stream.now() + seconds
        self._stream.read_deadline = self._deadline

    async def _send(self, data: bytes) -> None:
        if not self._stream.send_nowait(data):
            # The kernel's buffer has no room for the server's certificates.
            with TickLimit(self._deadline - self._stream.now()) as limit:
                await self._stream.flush()
            if limit.is_over:
                raise TimeoutError(STALLED_WRITE)
