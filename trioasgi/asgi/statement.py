"""What proxies say of a request, as `asgi.forwarded` reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trioasgi.net.connection_info import ConnectionInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trioasgi.net.peers import Peer
    from trioasgi.net.trust import Trusted


class Forwarded(ConnectionInfo):
    """What trusted proxies say of a request: the client's connection, the Host that the client asked for, and
    the percent-encoded path at which the application is mounted. None: they do not say.

    `tls` is that of the proxy's connection.
    """

    __slots__ = ("host", "root_path")

    def __init__(
        self,
        scheme: str,
        client: Peer | None,
        server: Peer | None,
        peer: str,
        tls: Mapping[str, object] | None,
        host: bytes | None,
        root_path: str | None = None,
    ) -> None:
        # Not by `super().__init__`: one call less for each request behind a proxy.
        self.scheme = scheme
        self.client = client
        self.server = server
        self.peer = peer
        self.tls = tls
        self.host = host
        self.root_path = root_path


class Node:
    """A hop: how the log names it, escaped, and the scope's `client` (port 0: unknown); None if it is no
    address.
    """

    __slots__ = ("client", "label")

    def __init__(self, label: str, client: Peer | None = None) -> None:
        self.label = label
        self.client = client

    def is_trusted(self, trusted: Trusted) -> bool:
        """Is it a trusted proxy?"""
        if self.client is None:
            return self.label == "unix:" and trusted.unix  # nginx calls the client of a Unix socket so
        return trusted.has_address(self.client[0])


class Statement(NamedTuple):
    """The values of the header fields about the client's request. Only `client` has been checked."""

    client: Node | None
    scheme: str = ""
    host: str = ""
    port: str = ""
    prefix: str = ""
