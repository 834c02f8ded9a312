"""A server with TLS and without it, and a client whose records can be sent byte by byte."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

import trio

from tests.support.http import request
from tests.support.sockets import Client, port_of, served
from tests.support.transports import certificates
from trioasgi import Config, serve_listeners
from trioasgi.tls.context import server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioasgi import Server
    from trioasgi.types import ASGIApp


class Wire(trio.abc.HalfCloseableStream):
    """A client's stream. All that is sent in one go leaves in one record, if there is TLS."""

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext | None) -> None:
        self.unsent = b""
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def start(self, *, finish: bool = True) -> None:
        """Do the handshake. Without `finish`, its last message is left `unsent`."""
        while self._tls is not None:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._stream.send_all(self._outgoing.read())
                self._incoming.write(await self._stream.receive_some())
        self.unsent = self._outgoing.read()
        if finish:
            await self._stream.send_all(self.unsent)
            self.unsent = b""

    def wire(self, data: bytes) -> bytes:
        """How `data` travels."""
        if self._tls is None:
            return data
        self._tls.write(data)
        return self._outgoing.read()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(self.wire(bytes(data)))

    async def send_slowly(self, data: bytes, parts: int, pause: float) -> None:
        """Send `data` in so many parts, with a pause of so many seconds behind each but the last."""
        wire = self.wire(data)
        size = len(wire) // parts + 1
        for start in range(0, len(wire), size):
            await self._stream.send_all(wire[start : start + size])
            if start + size < len(wire):
                await trio.sleep(pause)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._stream.send_all(data)

    def notify_end(self) -> bytes:
        """A close_notify, as it travels; nothing without TLS."""
        if self._tls is None:
            return b""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while self._tls is not None:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                received = await self._stream.receive_some(max_bytes)
                if not received:
                    return b""
                self._incoming.write(received)
            except ssl.SSLZeroReturnError:
                return b""
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


WAYS = ["plain", "tls", "listener"]
"""Without TLS, with it, and with a `trio.SSLListener` of the program's own, which is not on the hub. There is
also "plain listener", of the program's own too.
"""


class Serving:
    """Serves an application in one of the `WAYS`, and connects to it."""

    def __init__(self, way: str, directory: Path) -> None:
        self._way = way
        self._certificates = certificates(directory)

    @asynccontextmanager
    async def __call__(self, app: ASGIApp, **options: object) -> AsyncIterator[Server]:
        options = {"lifespan": "off", **options}
        made = self._certificates
        if not self._way.endswith("listener"):
            async with served(app, **options, **(made.options if self._way == "tls" else {})) as server:
                yield server
            return
        (plain,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        listener: trio.abc.Listener[trio.abc.Stream] = plain
        if self._way == "listener":
            listener = trio.SSLListener(plain, server_context(made.certfile, made.keyfile))
        async with trio.open_nursery() as nursery:
            start = partial(serve_listeners, app, listener, Config().replace(**options))
            yield cast("Server", await nursery.start(start))
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def connect(self, server: Server) -> AsyncIterator[tuple[Wire, Client]]:
        """A connection on which one request was answered."""
        async with self.connect_only(server) as (wire, client):
            assert (await client.get(request())).status == 200
            yield wire, client

    @asynccontextmanager
    async def connect_only(
        self, server: Server, receive_buffer: int = 0, *, finish: bool = True
    ) -> AsyncIterator[tuple[Wire, Client]]:
        """A connection whose handshake is done, or but for its last message."""
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.connect(("127.0.0.1", port_of(server)))
        made.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(made)) as stream:
            wire = Wire(stream, None if "plain" in self._way else self._certificates.context())
            await wire.start(finish=finish)
            yield wire, Client(wire)
