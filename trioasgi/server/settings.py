"""The settings that all connections of a worker share."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import msgspec

from trioasgi.server.handshakes import FailedHandshakes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trioasgi.net.trust import Trusted
    from trioasgi.server.given import Admission
    from trioasgi.server.protocols import Protocols


class ServerTLS(msgspec.Struct, frozen=True):
    """The TLS context, and what describes a connection for ASGI's TLS extension."""

    context: ssl.SSLContext
    describe: Callable[[ssl.SSLObject], Mapping[str, object]]


class LiveTLS:
    """The TLS of the handshakes that begin now. The certificate may be replaced while the server runs.

    It is replaced by another context: if a file changed while a context loads it, that context would have a
    certificate without its key, and no client could connect any more.
    """

    def __init__(self, current: ServerTLS) -> None:
        self.current = current

    def use(self, renewed: ServerTLS) -> None:
        """Use this for the handshakes that begin from now on."""
        self.current = renewed


class ConnectionSettings(msgspec.Struct, frozen=True):
    """Shared by all connections of a worker. Times are in seconds."""

    protocols: Protocols
    tls: LiveTLS | None
    timeout_handshake: float
    proxy_protocol: ProxyProtocol | None = None
    admission: Admission | None = None
    failed_handshakes: FailedHandshakes = msgspec.field(default_factory=FailedHandshakes)
    redirects_plain_http: bool = False
    """Is plain HTTP on a port with TLS redirected to https? Otherwise the answer is 400."""


class ProxyProtocol(msgspec.Struct, frozen=True):
    """Whose PROXY headers are read, and whether they are required."""

    trusted: Trusted
    required: bool
