"""The two ends of a connection, as in ASGI's scope."""

from __future__ import annotations

import socket
import sys

import trio

Peer = tuple[str, int | None]
"""A host and its port; for a Unix socket the path (empty for an unnamed client) and None."""


def fixed_address(sock: socket.socket) -> Peer | None:
    """The server's address, if it is the same for all connections; None if the socket listens on
    a wildcard.
    """
    name = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6} and name[0] in {"0.0.0.0", "::"}:  # noqa: S104 - a comparison
        return None
    return as_peer(name, sock.family)


def stream_peers(stream: trio.abc.Stream) -> tuple[Peer | None, Peer | None]:
    """The client's and the server's address of a stream: those of its socket, also below TLS. None for an
    unnamed Unix socket, and for a stream that is no `trio.SocketStream`.
    """
    sock = socket_of(stream)
    if sock is None:
        return None, None
    try:
        server = as_client(sock.getsockname(), sock.family)
    except OSError:  # it is closed: nobody will ask
        return None, None
    try:
        return as_client(sock.getpeername(), sock.family), server
    except OSError:  # the client has reset it
        return None, server


def socket_of(stream: trio.abc.Stream) -> trio.socket.SocketType | None:
    """The socket of a `trio.SocketStream`, also below TLS; None for any other stream."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream.socket if isinstance(stream, trio.SocketStream) else None


def as_peer(name: object, family: int) -> Peer:
    """Convert the result of getsockname() or getpeername() for a socket of that family."""
    if isinstance(name, tuple):
        return (str(name[0]), int(name[1]))
    if sys.platform != "win32" and family == socket.AF_UNIX and isinstance(name, bytes):
        return (name.decode("utf-8", "surrogateescape"), None)  # Linux's abstract namespace
    return (str(name), None)


def as_client(address: object, family: int) -> Peer | None:
    """The scope's `client`: None if the client has no address, as an unnamed one of a Unix socket."""
    if isinstance(address, tuple):
        return (str(address[0]), int(address[1]))
    return as_peer(address, family) if address else None
