"""What answers on the sockets of `--redirect-bind`: 308 to the same address with https, or a file for an ACME
challenge. No request there reaches the application.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from trioasgi.asgi.statement import Forwarded
from trioasgi.errors import ClientDisconnected
from trioasgi.http.access import AccessEntry
from trioasgi.http.authority import is_authority
from trioasgi.server.challenges import token_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trioasgi.asgi.forwarded import Forwarding
    from trioasgi.http.exchange import Exchange, Handler
    from trioasgi.http.request import Header, Request
    from trioasgi.net.connection_info import ConnectionInfo
    from trioasgi.observe.access import AccessLog
    from trioasgi.server.challenges import Challenges

_HTTPS: Final = 443
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_MOVED: Final = b"This address is served over HTTPS.\n"
_MISSING: Final = b"There is no such challenge.\n"


def https_port(sockets: Iterable[socket.socket]) -> int:
    """The port of the first of these that is a TCP socket; 443 if there is none."""
    for sock in sockets:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            return int(sock.getsockname()[1])
    return _HTTPS


def https_url(request: Request, authority: bytes | None, port: int) -> bytes | None:
    """The address of a request with https, on `port`. None if `authority`, its host, cannot be used."""
    if authority is None or not is_authority(authority):
        return None
    host = authority if authority.endswith(b"]") else authority.rsplit(b":", 1)[0]
    if port != _HTTPS:
        host += b":%d" % port
    if request.target.startswith(b"/"):
        return b"https://" + host + request.target
    # Of the asterisk-form nothing is left (RFC 9112, 3.2.4). In absolute-form the authority is Host.
    path = b"" if request.path == b"*" else request.path
    return b"https://" + host + path + (b"?" + request.query if request.query else b"")


class Redirects:
    """Answers exchanges with a redirect to https on `port`. `challenges` has the files for ACME, if there are
    any. `forwarding` reads what proxies say of a request (None: no proxy is trusted).
    """

    def __init__(
        self,
        port: int,
        *,
        challenges: Challenges | None,
        access_log: AccessLog | None,
        forwarding: Forwarding | None,
    ) -> None:
        self._port = port
        self._challenges = challenges
        self._access_log = access_log
        self._forwarding = forwarding

    def handler(self, info: ConnectionInfo) -> Handler:
        """The handler for the exchanges of one connection."""

        async def handle(exchange: Exchange) -> None:
            await self._handle(exchange, info)

        return handle

    async def _handle(self, exchange: Exchange, info: ConnectionInfo) -> None:
        request = exchange.request
        authority = request.authority
        forwarding = self._forwarding
        if forwarding is not None and request.forwarded and forwarding.trusts(info):
            info = forwarding.read(request, info) or info
            if isinstance(info, Forwarded) and info.host is not None:
                authority = info.host
        if self._access_log is not None:
            exchange.on_end = AccessEntry(self._access_log, info.peer).write
        if request.websocket:
            exchange.decline_websocket()
        try:
            await self._answer(exchange, authority, info.peer)
        except ClientDisconnected:
            exchange.abort("the client has gone")

    async def _answer(self, exchange: Exchange, authority: bytes | None, peer: str) -> None:
        request = exchange.request
        token = token_in(request.path) if self._challenges is not None else None
        if token is not None and request.method in ("GET", "HEAD"):
            await self._answer_challenge(exchange, token, peer)
            return
        location = https_url(request, authority, self._port)
        if location is None:
            exchange.refuse(400, "the request names no host that it could be redirected to")
            return
        await _send(exchange, 308, _MOVED, (b"location", location))

    async def _answer_challenge(self, exchange: Exchange, token: str, peer: str) -> None:
        assert self._challenges is not None
        try:
            content = self._challenges.read(token)
        except OSError as error:
            said = "%s: 503, as the file of an ACME challenge cannot be read: %s"
            self._challenges.warn(said, peer, error)
            exchange.refuse(503, "the challenge cannot be read")
            return
        if content is None:
            await _send(exchange, 404, _MISSING)
        else:
            await _send(exchange, 200, content)


async def _send(exchange: Exchange, status: int, body: bytes, *fields: Header) -> None:
    exchange.send_head(status, [_TEXT, (b"content-length", b"%d" % len(body)), *fields])
    if exchange.send_body(body, False):
        await exchange.flush()
