"""`HTTP1Exchange`: one request and its response on an HTTP/1 connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.exchange import BodyLengthError, Exchange, ResponsePhase
from trioasgi.http1.codec import RequestError
from trioasgi.http1.encoder import (
    CONNECTION_CLOSE,
    CONNECTION_KEEP_ALIVE,
    CONTINUE,
    LAST_CHUNK,
    NO_CONTENT_LENGTH,
    STATUS_LINES,
    TRANSFER_ENCODING_CHUNKED,
    Framing,
    encode_chunk,
    encode_informational,
)
from trioasgi.http1.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioasgi.exchange import Header
    from trioasgi.http1.codec import HTTP1Request
    from trioasgi.http1.connection import HTTP1Connection

YIELD_EVERY: Final = 256 * 1024
"""Bytes of a body after which its reader lets other connections run, however fast its own client sends."""

JOIN_BELOW: Final = 64 * 1024
"""A body of up to so many bytes is copied behind its head, so that both leave in one send; a larger one
costs less in a second send.
"""

_NOT_STARTED, _STARTED, _COMPLETE, _REFUSED, _FAILED = ResponsePhase

# Fields that say how the message is framed or what becomes of the connection, which is ours to say.
# `keep-alive`, `proxy-connection` and `upgrade` are hop-by-hop fields as well (RFC 9110, 7.6.1); we never
# upgrade here.
_OURS: Final = frozenset(
    {b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"}
)


class HTTP1Exchange(Exchange):
    """One request and its response.

    The head of a response with a known length, or without a body, waits for the first piece of body, so that
    both leave in one send; any other head is sent at once, so that a stream's client sees it open.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_head",
        "_left",
        "_owes_continue",
        "_since_yield",
        "close_after",
        "phase",
        "request",
        "sent",
        "status",
    )

    request: HTTP1Request

    def __init__(self, connection: HTTP1Connection, request: HTTP1Request) -> None:
        self._connection = connection
        self.request = request
        self.phase = _NOT_STARTED
        self.status = 0
        self.sent = 0
        self.close_after = not request.keep_alive
        self._owes_continue = request.expects_continue
        self._head = b""
        self._framing = Framing.NONE
        self._left = 0
        self._since_yield = 0

    # The request

    @property
    def disconnected(self) -> bool:
        return self._over or self._connection.channel.hung_up

    @property
    def _over(self) -> bool:
        return self.phase is not _NOT_STARTED and self.phase is not _STARTED

    async def wait_disconnected(self) -> None:
        while not self.disconnected:
            await self._connection.channel.wait_hung_up()

    async def receive_body(self) -> tuple[bytes, bool]:
        connection = self._connection
        reader = connection.reader
        while True:
            if self._over:
                raise ClientDisconnected("the exchange is over")
            try:
                piece = reader.next_body()
            except RequestError as error:
                self.fail(error.status, error.reason)
                raise ClientDisconnected(error.reason) from error
            if piece is not None:
                break
            await self._receive_more()
        if piece:
            self._since_yield += len(piece)
            if self._since_yield >= YIELD_EVERY:
                self._since_yield = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
            # The end of a body that has arrived along with its last piece is told with it.
            if reader.body_left == 0:
                reader.next_body()
        return piece, not reader.body_done

    async def _receive_more(self) -> None:
        """Read bytes of the body off the wire, having told the client to send it if it waits for that (RFC
        9110, 10.1.1).
        """
        connection = self._connection
        channel = connection.channel
        try:
            if self._owes_continue:
                self._owes_continue = False
                if self.phase is _NOT_STARTED and not channel.send_nowait(CONTINUE):
                    await channel.flush()
            data = channel.receive_nowait()
            if data is None:
                channel.read_deadline = channel.now() + connection.settings.timeout_body
                data = await channel.receive()
        except TimeoutError as exc:
            error = Rule.BODY_TIMEOUT.error()
            self.fail(error.status, error.reason)
            raise ClientDisconnected("the client stopped sending the body") from exc
        except OSError as exc:
            self._lose()
            raise ClientDisconnected("the client broke the connection") from exc
        if not data:
            # The rest of the body will never come. What the application has to say of that still reaches a
            # client that has only closed its sending side.
            self.close_after = True
            raise ClientDisconnected("the client closed the connection within the body")
        connection.reader.receive_data(data)

    # The response

    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        if self.request.http_version == "1.0":
            return False  # RFC 9110, 15.2: a 1.0 client does not know of them
        return self._send(encode_informational(status, headers))

    def send_head(self, status: int, headers: Sequence[Header]) -> bool:
        self.status = status
        self.phase = _STARTED
        length, given, lines = self._read_fields(headers)
        defaults = self._connection.settings.default_fields
        if given is None:
            lines[0] = defaults.start(status)
        else:
            lines[0] = STATUS_LINES[status] + defaults.without(given)
        lines += self._choose_framing(status, length)
        lines.append(self._choose_persistence())
        head = b"".join(lines)
        if self._framing is Framing.NONE or self._framing is Framing.LENGTH:
            self._head = head
            return False
        return self._send(head)

    def _read_fields(self, headers: Sequence[Header]) -> tuple[int | None, set[bytes] | None, list[bytes]]:
        """The Content-Length, the default fields that are given, and the lines of the head (the first is
        left for the status).
        """
        length: int | None = None
        given: set[bytes] | None = None
        lines = [b""]
        default_names = self._connection.settings.default_fields.names
        for field in headers:
            name = field[0]
            if name in _OURS:
                if name == b"content-length":
                    length = int(field[1])
                elif name == b"connection" and b"close" in field[1].lower():
                    self.close_after = True
                continue
            if name in default_names:
                given = {name} if given is None else given | {name}
            lines.append(b"%b: %b\r\n" % field)
        return length, given, lines

    def _choose_framing(self, status: int, length: int | None) -> tuple[bytes, ...]:
        """Choose how the body will end, and say so (RFC 9112, 6.1 to 6.3; RFC 9110, 8.6)."""
        length_line = () if length is None else (b"content-length: %d\r\n" % length,)
        if status == 204:
            self._framing = Framing.NONE
            return ()
        if status == 205:
            self._framing = Framing.NONE
            return (NO_CONTENT_LENGTH,)
        if status == 304 or self.request.method == "HEAD":
            self._framing = Framing.NONE
            return length_line
        if length is not None:
            self._framing = Framing.LENGTH
            self._left = length
            return length_line
        if self.request.http_version == "1.1":
            self._framing = Framing.CHUNKED
            return (TRANSFER_ENCODING_CHUNKED,)
        self._framing = Framing.CLOSE
        self.close_after = True
        return ()

    def _choose_persistence(self) -> bytes:
        """End the head, having said whether the connection goes on (RFC 9112, 9.3 and 9.6)."""
        connection = self._connection
        if connection.draining or self._owes_continue or not connection.can_skip_body():
            # With an expectation unanswered nobody knows whether the body will come (RFC 9110, 10.1.1).
            self.close_after = True
        if self.close_after:
            return CONNECTION_CLOSE + b"\r\n"
        if self.request.http_version == "1.0":
            return CONNECTION_KEEP_ALIVE + b"\r\n"
        return b"\r\n"

    def send_body(self, data: bytes, more: bool) -> bool:
        match self._framing:
            case Framing.LENGTH:
                self._left -= len(data)
                if self._left < 0 or (self._left and not more):
                    raise BodyLengthError(self._length_fault())
                self.sent += len(data)
            case Framing.NONE:
                data = b""
            case Framing.CHUNKED:
                self.sent += len(data)
                data = encode_chunk(data) if data else b""
                if not more:
                    data += LAST_CHUNK
            case Framing.CLOSE:
                self.sent += len(data)
        if not more:
            self.phase = _COMPLETE
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= JOIN_BELOW:
                data = head + data
            else:
                self._send(head)
        waits = self._send(data) if data else False
        if not more:
            self._connection.channel.release_watchers()
        return waits

    def _length_fault(self) -> str:
        promised = self.sent + self._left
        if self._left < 0:
            return f"the response body is {-self._left} bytes longer than its Content-Length"
        return f"the response body ended {self._left} of {promised} bytes before its Content-Length"

    def _send(self, data: bytes) -> bool:
        try:
            return not self._connection.channel.send_nowait(data)
        except OSError as exc:
            self._lose()
            raise ClientDisconnected("the client broke the connection") from exc

    async def flush(self) -> None:
        try:
            await self._connection.channel.flush()
        except TimeoutError as exc:
            self._connection.log_limit("the client took nothing of the response for too long")
            self._lose()
            raise ClientDisconnected("the client stopped reading the response") from exc
        except OSError as exc:
            self._lose()
            raise ClientDisconnected("the client broke the connection") from exc

    def _lose(self) -> None:
        self.phase = _FAILED
        self.close_after = True
        self._connection.channel.release_watchers()

    def fail(self, status: int, reason: str) -> None:
        if self.phase is _STARTED and not self._head:
            self.abort(reason)
        elif not self._over:
            self._head = b""
            self._connection.refuse(RequestError(status, reason), self)
            self._connection.channel.release_watchers()

    def abort(self, reason: str) -> None:
        if not self._over:
            self._connection.log_limit(reason)
            self._lose()
