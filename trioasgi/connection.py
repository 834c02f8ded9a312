"""One accepted stream: TLS, the choice of a protocol, and the isolation of its failures.

A connection's failure ends that connection and is logged with its peer; it never reaches a sibling.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import msgspec.structs
import trio

from trioasgi.http1.connection import HTTP1Connection, Phase
from trioasgi.net.peers import ConnectionInfo
from trioasgi.net.stream import HubStream
from trioasgi.net.stream_channel import StreamChannel
from trioasgi.observe.text import escaped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextvars import Context

    from trioasgi.http.exchange import Handler
    from trioasgi.http1.settings import HTTP1Settings
    from trioasgi.net.channel import Channel
    from trioasgi.net.peers import Peer
    from trioasgi.net.proxy import ProxyHeader
    from trioasgi.net.secure import Secured
    from trioasgi.net.trust import Trusted

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


class ServerTLS(msgspec.Struct, frozen=True):
    """How connections are secured, and what is said of those that are (ASGI's TLS extension)."""

    context: ssl.SSLContext
    describe: Callable[[ssl.SSLObject], Mapping[str, object]]


class ConnectionSettings(msgspec.Struct, frozen=True):
    """What is the same for all connections of a worker. Times are in seconds."""

    http1: HTTP1Settings
    handler: Callable[[ConnectionInfo], Handler]
    tls: ServerTLS | None
    timeout_handshake: float
    proxy_protocol: ProxyProtocol | None = None


class ProxyProtocol(msgspec.Struct, frozen=True):
    """Whose PROXY headers are read, and whether a connection has to have one."""

    trusted: Trusted
    required: bool


class Connections:
    """The connections of a worker: each is served from `begin` on, and all are drained at once.

    `nursery` runs them, each in a task of its own, and in another one where that is still with an application
    whose response is complete. `context` has the context variables that each call of the application begins
    with; it must not be entered by anybody else.
    """

    def __init__(self, settings: ConnectionSettings, nursery: trio.Nursery, context: Context) -> None:
        self._settings = settings
        self._nursery = nursery
        self._context = context
        self._live: set[HTTP1Connection] = set()
        self._preparing = 0
        self._draining = False
        self._has_explained = False

    def __len__(self) -> int:
        return len(self._live)

    @property
    def are_busy(self) -> bool:
        """Whether any has a request under way, or has been handed on while a call of the application still
        runs.
        """
        if any(connection.phase is Phase.BUSY for connection in self._live):
            return True
        return len(self._nursery.child_tasks) > len(self._live) + self._preparing

    def drain(self) -> None:
        """Let what is busy finish its request, and what is idle have a moment for one; then they close."""
        self._draining = True
        for connection in self._live:
            connection.drain()

    def abort(self) -> None:
        """Close all of them at once: whatever waits for one of them ends with an error."""
        for connection in self._live:
            connection.channel.abort()

    def begin(self, stream: trio.abc.Stream, client: Peer | None, server: Peer | None) -> None:
        """Serve one connection, in a task of its own."""
        info = self._info(client, server)
        if self._settings.tls is None and self._settings.proxy_protocol is None:
            channel = stream if isinstance(stream, HubStream) else StreamChannel(stream)
            self._continue(self._connect(channel, info))
        else:
            self._nursery.start_soon(self._prepare_and_begin, stream, info, name="connection")

    async def _prepare_and_begin(self, stream: trio.abc.Stream, info: ConnectionInfo) -> None:
        self._preparing += 1
        try:
            connection = await self._prepare(stream, info)
        finally:
            self._preparing -= 1
        if connection is not None:
            # In another task: what a handshake needs is not kept for as long as the connection lasts.
            self._continue(connection)

    def _info(self, client: Peer | None, server: Peer | None) -> ConnectionInfo:
        return ConnectionInfo(self._scheme, client, server, _peer_name(client, server))

    async def _prepare(self, stream: trio.abc.Stream, info: ConnectionInfo) -> HTTP1Connection | None:
        """Do what comes before HTTP: the PROXY header, TLS. None if that fails, and the stream is closed
        then.
        """
        connection = None
        with _Isolation(info.peer):
            try:
                begun: trio.abc.Stream | None = stream
                if self._settings.proxy_protocol is not None:
                    begun, info = await self._unwrap(stream, info, self._settings.proxy_protocol)
                if begun is not None:
                    connection = await self._secure(begun, info)
            finally:
                if connection is None:
                    await _close_at_once(stream)
        return connection

    @property
    def _scheme(self) -> str:
        return "http" if self._settings.tls is None else "https"

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

    async def _secure(self, stream: trio.abc.Stream, info: ConnectionInfo) -> HTTP1Connection | None:
        """The connection on which HTTP is spoken; None if TLS was to be and could not be agreed on."""
        tls = self._settings.tls
        if tls is None:
            return self._connect(stream if isinstance(stream, HubStream) else StreamChannel(stream), info)
        from trioasgi.net.secure import Secured, TLSChannel  # most servers leave TLS to a proxy

        secured = Secured(stream, tls.context)
        if not await self._shake_hands(secured, info.peer):
            return None
        channel: Channel
        if isinstance(stream, HubStream):
            channel = TLSChannel(secured, stream)
        else:
            channel = StreamChannel(secured.stream)
        return self._connect(channel, msgspec.structs.replace(info, tls=tls.describe(secured.ssl_object)))

    def _connect(self, channel: Channel, info: ConnectionInfo) -> HTTP1Connection:
        settings = self._settings
        connection = HTTP1Connection(
            channel,
            info,
            settings.http1,
            settings.handler(info),
            self._context,
            self._start_task,
            self._continue,
        )
        connection.draining = self._draining
        self._live.add(connection)
        return connection

    def _continue(self, connection: HTTP1Connection) -> None:
        # This may be called from anywhere: from the task of another request, or from none.
        self._context.run(partial(self._nursery.start_soon, self._run, connection, name="connection"))

    def _start_task(self, function: Callable[[], Awaitable[None]]) -> None:
        self._context.run(self._nursery.start_soon, function)

    async def _run(self, connection: HTTP1Connection) -> None:
        """Serve a connection's requests, and close it unless another task has it by then."""
        ours = True
        with _Isolation(connection.info.peer):
            try:
                ours = await connection.run()
                if ours:
                    await _close(connection.channel)
            except BaseException:
                connection.cut()
                raise
            finally:
                if ours:
                    self._live.discard(connection)
                    connection.channel.abort()

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


class _Isolation:
    """Keep an error where it is: logged with its peer, and of no concern to the other connections."""

    __slots__ = ("_peer",)

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> bool:
        if not isinstance(exc, Exception):
            return False
        logger.error("%s: the connection failed; it is closed, the others go on", self._peer, exc_info=exc)
        return True


async def _close(channel: Channel) -> None:
    # Most have nothing left to be sent, and need not wait.
    if not (isinstance(channel, HubStream) and channel.finish()):
        await channel.aclose()


async def _close_at_once(stream: trio.abc.Stream) -> None:
    if isinstance(stream, HubStream):
        stream.close()
    else:
        await trio.aclose_forcefully(stream)


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
    return ConnectionInfo(scheme, header.source, server, _peer_name(header.source, server))


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


def _peer_name(client: Peer | None, server: Peer | None) -> str:
    if client is None or not client[0]:
        return "a local client" if server is None or server[1] is None else "an unknown client"
    host, port = client
    host = escaped(host)  # of a Unix socket that a PROXY header names, it may be any bytes
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
