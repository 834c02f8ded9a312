"""Who is connected: the addresses of the two ends, as ASGI's scope has them, and what else is known of a
connection before anything has been read from it.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

Peer = tuple[str, int | None]
"""A host and its port; for a Unix socket the path (empty for an unnamed client) and None."""


class ConnectionInfo(msgspec.Struct, frozen=True):
    """What is the same for every request of a connection.

    `client` and `server` are as ASGI's scope has them: `(host, port)`, `(path, None)` for a Unix socket's
    server, None where unknown. `peer` is how the log names the client. `tls` is what ASGI's TLS extension
    says of the connection; None where there is no TLS.
    """

    scheme: str
    client: Peer | None
    server: Peer | None
    peer: str
    tls: Mapping[str, object] | None = None


def fixed_address(sock: socket.socket) -> Peer | None:
    """The server's address where it is the same for each connection; None where the socket listens on a
    wildcard.
    """
    name = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6} and name[0] in {"0.0.0.0", "::"}:  # noqa: S104 - a comparison
        return None
    return as_peer(name, sock.family)


def as_peer(name: object, family: int) -> Peer:
    """What getsockname() or getpeername() gave for a socket of that family."""
    if isinstance(name, tuple):
        return (str(name[0]), int(name[1]))
    if sys.platform != "win32" and family == socket.AF_UNIX and isinstance(name, bytes):
        return (name.decode("utf-8", "surrogateescape"), None)  # Linux's abstract namespace
    return (str(name), None)


def as_client(address: object, family: int) -> Peer | None:
    """ASGI: client is None where there is no such thing as its address, as for a Unix socket's unnamed
    client.
    """
    if isinstance(address, tuple):
        return (str(address[0]), int(address[1]))
    return as_peer(address, family) if address else None
