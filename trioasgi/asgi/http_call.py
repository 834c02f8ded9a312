"""`receive` and `send` of one HTTP call: the messages of ASGI's HTTP specification (spec_version 2.5) and its extensions."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.asgi.messages import (
    check_body,
    check_headers,
    check_links,
    check_message,
    check_path,
    check_range,
    check_status,
    check_type,
)
from trioasgi.errors import ASGIMessageError, ClientDisconnected
from trioasgi.exchange import BodyLengthError, ResponsePhase

if TYPE_CHECKING:
    from trioasgi.asgi.types import Message
    from trioasgi.exchange import Exchange
    from trioasgi.observe.access import AccessLog

_NOT_STARTED, _STARTED, _ENDING, _COMPLETE, _REFUSED, _FAILED = ResponsePhase


class AccessEntry:
    """The access log's line for one exchange: written once, when the response is complete, or given up.

    Not when the application returns: it may go on for long after its response.
    """

    __slots__ = ("_log", "_peer", "_started", "_written")

    def __init__(self, log: AccessLog, peer: str) -> None:
        self._log = log
        self._peer = peer
        self._started = perf_counter()
        self._written = False

    def write(self, exchange: Exchange) -> None:
        """Write the line, unless it has been written."""
        if self._written:
            return
        self._written = True
        request = exchange.request
        self._log.log(
            self._peer,
            request.method,
            request.target.decode("ascii", "replace"),
            request.http_version,
            exchange.status,
            exchange.sent,
            perf_counter() - self._started,
        )


class HTTPCall:
    """`receive` and `send` of one call. How far the response has come is the exchange's `phase`."""

    __slots__ = ("_exchange", "_log", "_request_done", "_trailers_due")

    def __init__(self, exchange: Exchange, log: AccessEntry | None) -> None:
        self._exchange = exchange
        self._log = log
        self._request_done = False
        self._trailers_due = False

    async def receive(self) -> Message:
        """The next event: `http.request` until the body is done, then `http.disconnect`, once there is one
        or the response is over.
        """
        exchange = self._exchange
        if not self._request_done:
            try:
                body, more = await exchange.receive_body()
            except ClientDisconnected:
                self._request_done = True
                return {"type": "http.disconnect"}
            self._request_done = not more
            return {"type": "http.request", "body": body, "more_body": more}
        await exchange.wait_disconnected()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take `http.response.start`, then `http.response.body` messages, and those of the extensions.

        Raises ClientDisconnected, ASGIMessageError.
        """
        exchange = self._exchange
        phase = exchange.phase
        if not isinstance(message, dict):
            message = check_message(message)
        kind = message.get("type")
        if phase is _STARTED and kind == "http.response.body" and not self._trailers_due:
            body = message.get("body", b"")
            more = bool(message.get("more_body"))
            try:
                waits = exchange.send_body(body if type(body) is bytes else check_body(body), more)
            except BodyLengthError as exc:
                raise ASGIMessageError(str(exc)) from exc
            if waits or more:
                await self._flush(waits)
            if not more:
                self._end_body()
        elif phase is _NOT_STARTED and kind == "http.response.start":
            status = message.get("status")
            if type(status) is not int or not 200 <= status <= 999:
                status = check_status(status)
            headers, length = check_headers(message.get("headers", ()))
            if message.get("trailers"):
                length = self._expect_trailers(length)
            if exchange.send_head(status, headers, length):
                await exchange.flush()
        else:
            await self._send_other(message)

    async def _flush(self, waits: bool) -> None:
        if waits:
            await self._exchange.flush()
        else:
            # A stream whose client is fast must not keep the others waiting.
            await trio.lowlevel.checkpoint()

    def _end_body(self) -> None:
        if self._log is not None:
            self._log.write(self._exchange)

    async def _send_other(self, message: Message) -> None:
        """A message of an extension, or one that is out of place."""
        phase = self._exchange.phase
        if phase is _REFUSED or phase is _FAILED:
            raise ClientDisconnected("the client has gone, or the server has ended the exchange")
        if phase is _NOT_STARTED:
            check_type(message, "http.response.start", "http.response.early_hint")
            await self._send_early_hint(message)
        elif phase is not _STARTED:
            check_type(message, "nothing, as the response is complete")
        elif self._trailers_due:
            check_type(message, "http.response.trailers")
            await self._send_trailers(message)
        else:
            kind = check_type(message, *_BODY_MESSAGES)
            await _BODY_MESSAGES[kind](self, message)

    async def _send_early_hint(self, message: Message) -> None:
        links = check_links(message.get("links", ()))
        if self._exchange.send_informational(103, [(b"link", link) for link in links]):
            await self._exchange.flush()

    # Trailers: https://asgi.readthedocs.io, "HTTP Trailers"

    def _expect_trailers(self, length: int | None) -> int | None:
        """The response will have trailers: `http.response.trailers` follows its body. The length that it may be framed with."""
        self._trailers_due = self._exchange.begin_trailers()
        return None if self._trailers_due else length

    async def _send_trailers(self, message: Message) -> None:
        headers, _ = check_headers(message.get("headers", ()))
        more = bool(message.get("more_trailers"))
        if self._exchange.send_trailers(headers, more):
            await self._exchange.flush()
        if not more:
            self._end_body()
