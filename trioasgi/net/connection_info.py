"""`ConnectionInfo`: what is known of a connection before its first byte is read.

It is read for each request, so it is a class that mypyc can compile: compiled code takes ten times as long
for an attribute of a struct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trioasgi.net.peers import Peer


class ConnectionInfo:
    """Shared by all requests of a connection. Nothing of it changes.

    `client` and `server` are as in ASGI's scope: `(host, port)`, or `(path, None)` for the server of a Unix
    socket, or None if unknown. The log calls the client `peer`, which is escaped where it has to be. `tls` is
    the scope's TLS extension, None without TLS.
    """

    __slots__ = ("client", "peer", "scheme", "server", "tls")

    def __init__(
        self,
        scheme: str,
        client: Peer | None,
        server: Peer | None,
        peer: str,
        tls: Mapping[str, object] | None = None,
    ) -> None:
        self.scheme = scheme
        self.client = client
        self.server = server
        self.peer = peer
        self.tls = tls

    def over(self, scheme: str, tls: Mapping[str, object] | None = None) -> ConnectionInfo:
        """The same ends, with another scheme and TLS."""
        return ConnectionInfo(scheme, self.client, self.server, self.peer, tls)
