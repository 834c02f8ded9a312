"""What proxies say of a request, as `asgi.forwarded` reads it.

These are Structs, so they have a module of their own: mypyc cannot compile them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from trioasgi.net.peers import ConnectionInfo

if TYPE_CHECKING:
    from trioasgi.net.peers import Peer
    from trioasgi.net.trust import Trusted


class Forwarded(ConnectionInfo, frozen=True):
    """What trusted proxies say of a request: the client's connection, the Host that the client asked for, and
    the percent-encoded path at which the application is mounted. None: they do not say.

    `tls` is that of the proxy's connection.
    """

    host: bytes | None = None
    root_path: str | None = None


class Node(msgspec.Struct, frozen=True):
    """A hop: how the log names it, escaped, and the scope's `client` (port 0: unknown); None if it is no
    address.
    """

    label: str
    client: Peer | None = None

    def is_trusted(self, trusted: Trusted) -> bool:
        """Is it a trusted proxy?"""
        if self.client is None:
            return self.label == "unix:" and trusted.unix  # nginx calls the client of a Unix socket so
        return trusted.has_address(self.client[0])


class Statement(msgspec.Struct, frozen=True):
    """The values of the header fields about the client's request. Only `client` has been checked."""

    client: Node | None
    scheme: str = ""
    host: str = ""
    port: str = ""
    prefix: str = ""
