"""A client that reads slowly, on plain TCP and on TLS, and can say whether what it got is whole."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import h11
import trio

from tests.support.sockets import port_of
from tests.support.transports import certificates
from trioasgi import Server


@dataclass
class Got:
    """What a client has read; `reset` says how the connection ended: by an error, or in an orderly way."""

    data: bytes
    reset: bool

    def response(self, method: str = "GET") -> tuple[int, bytes, bool]:
        """Status, body, and whether the response is whole as far as a client can tell."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(self.data)
        if not self.reset:
            parser.receive_data(b"")
        status, body = 0, b""
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError:
                return status, body, False
            match event:
                case h11.Response(status_code=status):
                    pass
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    return status, body, True
                case h11.NEED_DATA | h11.ConnectionClosed():
                    return status, body, False


def connect(
    server: Server, tls: ssl.SSLContext | None, room: int = 8192
) -> contextlib.AbstractAsyncContextManager[trio.abc.Stream]:
    """A client whose kernel has little room to receive."""
    return connect_to(port_of(server), tls, room)


@contextlib.asynccontextmanager
async def connect_to(
    port: int, tls: ssl.SSLContext | None, room: int = 8192
) -> AsyncIterator[trio.abc.Stream]:
    """As `connect`, to a port."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    try:
        await sock.connect(("127.0.0.1", port))
        stream: trio.abc.Stream = trio.SocketStream(sock)
        if tls is not None:
            secured = trio.SSLStream(stream, tls, server_hostname="localhost")
            await secured.do_handshake()
            stream = secured
        yield stream
    finally:
        sock.close()


async def read(stream: trio.abc.Stream, step: int = 65536, rest: int = 0) -> Got:
    """Read to the end, `step` bytes at a time, and let the server run `rest` times before each."""
    parts: list[bytes] = []
    while True:
        for _ in range(rest):
            await trio.lowlevel.checkpoint()
        try:
            part = bytes(await stream.receive_some(step))
        except trio.BrokenResourceError:
            return Got(b"".join(parts), reset=True)
        if not part:
            return Got(b"".join(parts), reset=False)
        parts.append(part)


def context(transport: str, directory: Path) -> ssl.SSLContext | None:
    """What a client needs for `transport`."""
    return certificates(directory).context() if transport == "tls" else None


def options(transport: str, directory: Path) -> dict[str, object]:
    """What a server needs for `transport`."""
    return dict(certificates(directory).options) if transport == "tls" else {}


def head(version: str, *, close: bool) -> bytes:
    """A request."""
    fields = "Connection: close\r\n" if close else ""
    return f"GET / HTTP/{version}\r\nHost: h\r\n{fields}\r\n".encode()
