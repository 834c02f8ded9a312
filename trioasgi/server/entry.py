"""The steps before a connection's protocol: read the PROXY header, do the TLS handshake."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from trioasgi.net.connection_info import ConnectionInfo
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.net.tick_clock import TickLimit
from trioasgi.observe.text import escaped
from trioasgi.tls.failures import CLOSED_HERE, HandshakeFailure

if TYPE_CHECKING:
    from trioasgi.net.channel import Channel
    from trioasgi.net.peers import Peer
    from trioasgi.net.proxy import ProxyHeader
    from trioasgi.server.settings import ConnectionSettings, ProxyProtocol

logger = logging.getLogger("trioasgi")


class PreparedConnection(msgspec.Struct, frozen=True):
    """A connection after these steps."""

    channel: Channel
    info: ConnectionInfo
    alpn: str | None = None
    """The ALPN name of the protocol; None if none was agreed on."""


class ConnectionPreparer:
    """Does these steps for each connection, as the settings require."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._scheme = "http" if settings.tls is None else "https"
        self._failed = settings.failed_handshakes
        self.has_no_steps = settings.tls is None and settings.proxy_protocol is None
        """Do the settings require neither a PROXY header nor TLS? Then no connection has to wait."""

    def info(self, client: Peer | None, server: Peer | None, scheme: str | None = None) -> ConnectionInfo:
        """What is known of a connection before the steps. `scheme` None: that of the settings."""
        return ConnectionInfo(scheme or self._scheme, client, server, peer_name(client, server))

    async def prepare(self, stream: trio.abc.Stream, info: ConnectionInfo) -> PreparedConnection | None:
        """Read the PROXY header and do the TLS handshake. If one fails, log that and return None."""
        unwrapped: trio.abc.Stream | None = stream
        reached = info.server  # a PROXY header says another
        if self._settings.proxy_protocol is not None:
            unwrapped, info = await self._read_proxy_header(stream, info, self._settings.proxy_protocol)
        return None if unwrapped is None else await self._start_tls(unwrapped, info, reached)

    async def _read_proxy_header(
        self, stream: trio.abc.Stream, info: ConnectionInfo, settings: ProxyProtocol
    ) -> tuple[trio.abc.Stream | None, ConnectionInfo]:
        """Read the PROXY header. Return a stream of the bytes after it, and the connection that it describes.
        The stream is None if the connection must be closed: the header is malformed, late or missing, or the
        peer is not a trusted proxy.
        """
        from trioasgi.net.proxy import ProxyError, read_proxy_header  # few servers need it
        from trioasgi.net.pushback import unread

        if not settings.trusted.has_peer(info.client, info.server):
            if not settings.required:
                return stream, info
            logger.warning("%s: closed, as it is no trusted proxy (--proxy-protocol-trusted)", info.peer)
            return None, info
        # With `fail_after`, Python 3.12 and 3.13 keep the connection until the garbage collector runs
        # (test_a_connection_that_ends_before_its_first_request_is_freed).
        with TickLimit(self._settings.timeout_handshake):
            try:
                header, rest = await read_proxy_header(stream, required=settings.required)
            except (ProxyError, trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
                logger.warning("%s: closed: %s", info.peer, _proxy_failure(exc))
                return None, info
            stream = unread(stream, rest)
            return (stream, info) if header is None else (stream, _proxied(info, header))
        logger.warning("%s: closed: no PROXY header in time (--timeout-handshake)", info.peer)
        return None, info

    async def _start_tls(
        self, stream: trio.abc.Stream, info: ConnectionInfo, reached: Peer | None
    ) -> PreparedConnection | None:
        """Do the TLS handshake, if there is TLS. None if it fails."""
        tls = self._settings.tls
        if tls is None:
            if isinstance(stream, trio.SSLStream):
                return await self._use_tls_of_caller(stream, info, reached)
            return PreparedConnection(as_channel(stream), info)
        from trioasgi.net.secure import start_tls  # most servers do not need it

        current, plain = tls.current, b""
        try:
            channel = await start_tls(stream, current.context, self._settings.timeout_handshake)
            if channel is None:
                self._failed.note(info, endpoint_name(reached), HandshakeFailure.TIMEOUT, _TOO_LATE)
        except _HANDSHAKE_FAILURES as exc:
            channel = None
            if self._note_failure(info, reached, exc) is HandshakeFailure.PLAIN_HTTP:
                plain = getattr(exc, "data", b"")
        if channel is None:
            if plain:
                from trioasgi.server.plain_http import answer_plainly

                redirects = self._settings.redirects_plain_http
                await answer_plainly(as_channel(stream), plain, redirects=redirects)
            return None
        info = info.over(info.scheme, current.describe(channel.ssl_object))
        return PreparedConnection(channel, info, channel.ssl_object.selected_alpn_protocol())

    async def _use_tls_of_caller(
        self, stream: trio.SSLStream[Any], info: ConnectionInfo, reached: Peer | None
    ) -> PreparedConnection | None:
        """Describe the TLS that the caller of `serve_stream` has put on the stream. None if its handshake
        fails.
        """
        from trioasgi.tls.extension import ConnectionDescriber

        if not await self._do_callers_handshake(stream, info, reached):
            return None
        # SSLStream has these methods too, but not the one for all certificates of the client.
        ssl_object: Any = getattr(stream, "_ssl_object", stream)
        tls = ConnectionDescriber(stream.context).describe(ssl_object)
        info = info.over("https", tls)
        return PreparedConnection(as_channel(stream), info, stream.selected_alpn_protocol())

    async def _do_callers_handshake(
        self, stream: trio.SSLStream[Any], info: ConnectionInfo, reached: Peer | None
    ) -> bool:
        """Do the TLS handshake within `timeout_handshake`. If it fails, log that and return False."""
        # With `fail_after`, Python 3.12 and 3.13 keep the connection until the garbage collector runs.
        with TickLimit(self._settings.timeout_handshake) as limit:
            try:
                await stream.do_handshake()
            except _HANDSHAKE_FAILURES as exc:
                self._note_failure(info, reached, exc)
                return False
        if limit.is_over:
            self._failed.note(info, endpoint_name(reached), HandshakeFailure.TIMEOUT, _TOO_LATE)
        return not limit.is_over

    def _note_failure(self, info: ConnectionInfo, reached: Peer | None, exc: Exception) -> HandshakeFailure:
        """Count and log a failed handshake. Return why it has failed."""
        from trioasgi.server.handshake_errors import explain  # few handshakes fail

        failure, reason = explain(exc)
        self._failed.note(info, endpoint_name(reached), failure, reason)
        return failure


def as_channel(stream: trio.abc.Stream) -> Channel:
    """`stream` itself if it is a channel, otherwise a channel on it."""
    return stream if isinstance(stream, HubStream) else StreamChannel(stream)


_HANDSHAKE_FAILURES = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)
_TOO_LATE = "it took too long (--timeout-handshake)"


def _proxy_failure(exc: Exception) -> str:
    if isinstance(exc, trio.ClosedResourceError):
        return CLOSED_HERE
    return str(exc) or "the connection was broken within its PROXY header"


def _proxied(info: ConnectionInfo, header: ProxyHeader) -> ConnectionInfo:
    """The client's connection to the proxy, which the header describes."""
    if header.source is None and header.destination is None:
        return info.over("https", info.tls) if header.tls else info
    server = header.destination or info.server
    scheme = "https" if header.tls else info.scheme
    return ConnectionInfo(scheme, header.source, server, peer_name(header.source, server))


def endpoint_name(server: Peer | None) -> str:
    """The name of the address that a client has connected to, for counts."""
    return "unix" if server is None or server[1] is None else peer_name(server, server)


def peer_name(client: Peer | None, server: Peer | None) -> str:
    """The name of the client in log lines."""
    if client is None or not client[0]:
        return "a local client" if server is None or server[1] is None else "an unknown client"
    host, port = client
    if port is None:
        return escaped(host)  # a PROXY header may name a Unix socket with any bytes
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
