"""One accepted stream: TLS, the choice of a protocol, and the isolation of its failures.

A connection's failure ends that connection and is logged with its peer; it never reaches a sibling.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trioasgi.exchange import ConnectionInfo
from trioasgi.http1.connection import HTTP1Connection
from trioasgi.net.channel import LayeredChannel, StreamChannel
from trioasgi.net.stream import HubStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.exchange import Peer
    from trioasgi.http1.connection import Handler, HTTP1Settings
    from trioasgi.net.channel import Channel

logger = logging.getLogger("trioasgi")

CLOSE_SECONDS = 2.0
"""How long an orderly close (TLS's close_notify) may take."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What is the same for all connections of a worker. Times are in seconds."""

    http1: HTTP1Settings
    handler: Callable[[ConnectionInfo], Handler]
    tls: ssl.SSLContext | None
    timeout_handshake: float


class Connections:
    """The connections of a worker: each is served by a call of `serve`, and all are drained at once."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self._live: set[HTTP1Connection] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._live)

    def drain(self) -> None:
        """Wake what is idle and let it close; let what is busy finish its request, and then close."""
        self._draining = True
        for connection in self._live:
            connection.drain()

    async def serve(self, stream: trio.abc.Stream, client: Peer | None, server: Peer | None) -> None:
        """Serve one connection and close it. Raises nothing but cancellation."""
        peer = _peer_name(client, server)
        try:
            async with _Closing(stream):
                await self._serve(stream, client, server, peer)
        except Exception:
            logger.exception("%s: the connection failed; it is closed, the others go on", peer)

    async def _serve(
        self, stream: trio.abc.Stream, client: Peer | None, server: Peer | None, peer: str
    ) -> None:
        channel: Channel
        tls = self._settings.tls
        if tls is not None:
            secured = await self._handshake(stream, tls, peer)
            if secured is None:
                return
            channel = (
                LayeredChannel(secured, stream) if isinstance(stream, HubStream) else StreamChannel(secured)
            )
        else:
            channel = stream if isinstance(stream, HubStream) else StreamChannel(stream)
        info = ConnectionInfo("http" if tls is None else "https", client, server, peer)
        connection = HTTP1Connection(channel, info, self._settings.http1, self._settings.handler(info))
        connection.draining = self._draining
        self._live.add(connection)
        try:
            await connection.run()
        finally:
            self._live.discard(connection)
        with trio.move_on_after(CLOSE_SECONDS):
            await channel.aclose()

    async def _handshake(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, peer: str
    ) -> trio.SSLStream[trio.abc.Stream] | None:
        """Shake hands within the deadline; None if that fails, which is logged and never anything worse."""
        secured = trio.SSLStream(stream, context, server_side=True)
        try:
            with trio.fail_after(self._settings.timeout_handshake):
                await secured.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError, OSError) as exc:
            logger.info("%s: TLS handshake failed: %s", peer, _handshake_reason(exc))
            return None
        return secured


class _Closing:
    """Close the stream at the end whatever happens: at once, without waiting for anybody."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._stream, HubStream):
            self._stream.close()
        else:
            await trio.aclose_forcefully(self._stream)


def _handshake_reason(exc: Exception) -> str:
    if isinstance(exc, trio.TooSlowError):
        return "it took too long (--timeout-handshake)"
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or str(cause)).replace("_", " ").lower()
    return str(cause or exc) or "the client closed the connection"


def _peer_name(client: Peer | None, server: Peer | None) -> str:
    if client is None or not client[0]:
        return "a local client" if server is None or server[1] is None else "an unknown client"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
