"""What the one connection of a test runs over: memory streams, a socket on the hub, or TLS on that.

The sockets are a Unix pair: what one end writes the other can read at once, so a clock that jumps when every
task waits jumps past nothing that is on its way. Over TCP it might.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, cast

import trio
import trio.testing

from trioasgi.net.hub import Hub
from trioasgi.net.stream import HubStream, as_stream

from .certificates import Certificates

MEMORY, HUB, TLS = STREAMS = ("memory", "hub", "tls")

StreamPair = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]


@dataclass(frozen=True)
class Connection:
    """A connection before a byte has passed: the client's end, the server's, and what its server is told."""

    client: trio.abc.HalfCloseableStream
    server: trio.abc.HalfCloseableStream
    options: Mapping[str, object] = field(default_factory=dict)

    async def begin(self) -> None:
        """Do what the client does before it speaks HTTP."""
        if isinstance(self.client, SecureStream):
            await self.client.do_handshake()


class Transport(Protocol):
    """A way to connect a client and a server."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """A new connection, whose transport lives as long as the block."""


class Given:
    """The pair of streams that a test has made itself."""

    def __init__(self, pair: StreamPair) -> None:
        self._pair = pair

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        yield Connection(*self._pair)


class InMemory:
    """Memory streams: what the server does with a stream that it knows nothing about."""

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        yield Connection(*trio.testing.memory_stream_pair())


class OnHub:
    """A socket on a hub, as accepted connections are."""

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        async with _running_hub() as hub, _socket_pair(hub) as (client, server):
            yield Connection(client, as_stream(server))


class SecureOnHub:
    """TLS on a socket of the hub. The client checks the server's certificate."""

    def __init__(self, certificates: Certificates) -> None:
        self._options = certificates.options
        self._context = certificates.context()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        async with _running_hub() as hub, _socket_pair(hub) as (client, server):
            yield Connection(SecureStream(client, self._context), as_stream(server), self._options)


class Unseen:
    """Where collection did not see that the test connects: it would run over one kind of streams alone."""

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        raise AssertionError("collection has not seen that this test connects: see `connects` in streams.py")


"""A reason for the marker `fails_over`."""


def scheme_over(streams: str) -> str:
    """The scheme of a request over such streams."""
    return "https" if streams == TLS else "http"


current: ContextVar[Transport] = ContextVar("current", default=InMemory())  # noqa: B039 - it holds nothing
"""The transport that the running test is for."""


class SecureStream(trio.abc.HalfCloseableStream):
    """A client's TLS stream that can close its sending side alone (RFC 8446, 6.1), as trio's cannot.

    With `ragged` set TCP's end comes without close_notify before it.
    """

    def __init__(self, transport: trio.SocketStream, context: ssl.SSLContext) -> None:
        self.ragged = False
        self._transport = transport
        self._context = context
        self._tls = trio.SSLStream(
            transport, cast("ssl.SSLContext", self), server_hostname="localhost", https_compatible=True
        )

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_side: bool, server_hostname: str
    ) -> ssl.SSLObject:
        """As `ssl.SSLContext.wrap_bio`: the one moment at which all of what trio makes can be seen."""
        self._outgoing = outgoing
        self._object = self._context.wrap_bio(incoming, outgoing, server_side, server_hostname)
        return self._object

    async def do_handshake(self) -> None:
        await self._tls.do_handshake()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._tls.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._tls.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._tls.receive_some(max_bytes)

    async def send_eof(self) -> None:
        if not self.ragged:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._object.unwrap()  # it asks for the server's, for which nobody waits
            with contextlib.suppress(trio.BrokenResourceError):  # it may have closed already
                await self._transport.send_all(self._outgoing.read())
        await self._transport.send_eof()

    async def aclose(self) -> None:
        await self._tls.aclose()


@contextlib.asynccontextmanager
async def _running_hub() -> AsyncIterator[Hub]:
    """A hub that dispatches for as long as the block lasts.

    It runs in a system task: a nursery here would put a further group around what the server raises.
    """
    hub, ended = Hub(), trio.Event()

    async def run() -> None:
        await hub.run()
        ended.set()

    trio.lowlevel.spawn_system_task(run)
    try:
        yield hub
    finally:
        hub.stop()
        with trio.CancelScope(shield=True):
            await ended.wait()


@contextlib.asynccontextmanager
async def _socket_pair(hub: Hub) -> AsyncIterator[tuple[trio.SocketStream, HubStream]]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    client = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    server = HubStream(theirs, hub)
    try:
        yield client, server
    finally:
        client.socket.close()
        server.close()
