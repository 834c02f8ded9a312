"""What comes before a connection's protocol: the PROXY header, and TLS."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, NamedTuple

import msgspec.structs
import trio

from trioasgi.net.peers import ConnectionInfo
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.observe.text import escaped

if TYPE_CHECKING:
    from trioasgi.net.channel import Channel
    from trioasgi.net.peers import Peer
    from trioasgi.net.proxy import ProxyHeader
    from trioasgi.net.secure import Secured
    from trioasgi.server.settings import ConnectionSettings, ProxyProtocol

logger = logging.getLogger("trioasgi")

_DISTRUST = ("alert certificate unknown", "alert unknown ca", "alert bad certificate")
"""What a client says that does not trust the server's certificate (RFC 8446, 6.2)."""

_EXPLANATION = (
    "(the client does not trust this server's certificate: have it trust the authority that signed it, or "
    "accept it in the browser, which ends this; further ones are logged at debug)"
)

_WAYS_OUT = {
    "http request": " (use https://)",
    "wrong version number": " (not TLS; for a PROXY header see --proxy-protocol)",
}
"""What to do about OpenSSL's reasons that come of a setting."""


class Entered(NamedTuple):
    """A stream that has passed the entry: where its protocol is spoken, and what is known of its peer."""

    channel: Channel
    info: ConnectionInfo
    alpn: str | None = None
    """The name of the protocol that TLS has agreed on, if it has."""


class Entry:
    """Takes streams through what comes before their protocol, as the settings have it."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._has_explained = False

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to wait for: neither a PROXY header nor TLS."""
        return self._settings.tls is None and self._settings.proxy_protocol is None

    def info(self, client: Peer | None, server: Peer | None) -> ConnectionInfo:
        """What is known of a connection before it has sent anything."""
        scheme = "http" if self._settings.tls is None else "https"
        return ConnectionInfo(scheme, client, server, peer_name(client, server))

    async def enter(self, stream: trio.abc.Stream, info: ConnectionInfo) -> Entered | None:
        """Read the PROXY header and shake hands; None if that fails, which is logged."""
        begun: trio.abc.Stream | None = stream
        if self._settings.proxy_protocol is not None:
            begun, info = await self._unwrap(stream, info, self._settings.proxy_protocol)
        return None if begun is None else await self._secure(begun, info)

    async def _unwrap(
        self, stream: trio.abc.Stream, info: ConnectionInfo, settings: ProxyProtocol
    ) -> tuple[trio.abc.Stream | None, ConnectionInfo]:
        """The stream behind its PROXY header, and whose connection it is according to that; no stream if
        the header is wrong, or missing though it has to be there.
        """
        from trioasgi.net.proxy import ProxyError, read_proxy_header  # few servers stand behind such a proxy
        from trioasgi.net.pushback import unread

        if not settings.trusted.has_peer(info.client, info.server):
            if not settings.required:
                return stream, info
            logger.warning("%s: closed, as it is no trusted proxy (--proxy-protocol-trusted)", info.peer)
            return None, info
        try:
            with trio.fail_after(self._settings.timeout_handshake):
                header, rest = await read_proxy_header(stream, required=settings.required)
        except (ProxyError, trio.BrokenResourceError, trio.TooSlowError, OSError) as exc:
            logger.warning("%s: closed: %s", info.peer, _proxy_fault(exc))
            return None, info
        stream = unread(stream, rest)
        return (stream, info) if header is None else (stream, _proxied(info, header))

    async def _secure(self, stream: trio.abc.Stream, info: ConnectionInfo) -> Entered | None:
        """The channel on which HTTP is spoken; None if TLS was to be and could not be agreed on."""
        tls = self._settings.tls
        if tls is None:
            return Entered(as_channel(stream), info)
        from trioasgi.net.secure import Secured, TLSChannel  # most servers leave TLS to a proxy

        secured = Secured(stream, tls.context)
        if not await self._shake_hands(secured, info.peer):
            return None
        channel: Channel
        if isinstance(stream, HubStream):
            channel = TLSChannel(secured, stream)
        else:
            channel = StreamChannel(secured.stream)
        info = msgspec.structs.replace(info, tls=tls.describe(secured.ssl_object))
        return Entered(channel, info, secured.ssl_object.selected_alpn_protocol())

    async def _shake_hands(self, secured: Secured, peer: str) -> bool:
        """Shake hands within the deadline; False if that fails, which is logged and never anything worse."""
        try:
            with trio.fail_after(self._settings.timeout_handshake):
                await secured.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError, OSError) as exc:
            self._log_handshake(peer, _handshake_reason(exc))
            return False
        return True

    def _log_handshake(self, peer: str, reason: str) -> None:
        """A browser that does not trust the certificate says so several times a visit: explain it once."""
        level, explanation = logging.INFO, ""
        if reason.endswith(_DISTRUST):
            level = logging.DEBUG if self._has_explained else logging.INFO
            explanation = f" {_EXPLANATION}"
            self._has_explained = True
        logger.log(level, "%s: TLS handshake failed: %s%s", peer, reason, explanation)


def as_channel(stream: trio.abc.Stream) -> Channel:
    """The channel that `stream` is, or one on it."""
    return stream if isinstance(stream, HubStream) else StreamChannel(stream)


def _proxy_fault(exc: Exception) -> str:
    if isinstance(exc, trio.TooSlowError):
        return "no PROXY header in time (--timeout-handshake)"
    return str(exc) or "the connection was broken within its PROXY header"


def _proxied(info: ConnectionInfo, header: ProxyHeader) -> ConnectionInfo:
    """The client's connection to the proxy, as far as the proxy tells of it."""
    if header.source is None and header.destination is None:
        return msgspec.structs.replace(info, scheme="https") if header.tls else info
    server = header.destination or info.server
    scheme = "https" if header.tls else info.scheme
    return ConnectionInfo(scheme, header.source, server, peer_name(header.source, server))


def _handshake_reason(exc: Exception) -> str:
    if isinstance(exc, trio.TooSlowError):
        return "it took too long (--timeout-handshake)"
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLZeroReturnError):
        return "the client closed the connection"
    if isinstance(cause, ssl.SSLError):
        reason = (cause.reason or str(cause)).replace("_", " ").lower()
        return f"{reason}{_WAYS_OUT.get(reason, '')}"
    return str(cause or exc) or "the client closed the connection"


def peer_name(client: Peer | None, server: Peer | None) -> str:
    """How log lines call the client at the other end."""
    if client is None or not client[0]:
        return "a local client" if server is None or server[1] is None else "an unknown client"
    host, port = client
    host = escaped(host)  # of a Unix socket that a PROXY header names, it may be any bytes
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
