"""`HTTP1Exchange`: one request and its response on an HTTP/1 connection.

`response.HTTP1Response` is the response's half. This module adds the request's half and the call's scope.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import ClientDisconnected
from trioasgi.http.response import ResponsePhase
from trioasgi.http1.body import ChunkedBody
from trioasgi.http1.encoder import CONTINUE, UPGRADE_WEBSOCKET
from trioasgi.http1.framing import Framing
from trioasgi.http1.pace import Pace
from trioasgi.http1.refusals import refusal_text
from trioasgi.http1.response import HTTP1Response
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.net.channel import STALLED_READ
from trioasgi.net.turns import wait_for_long_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trioasgi.http.exchange import Refusal
    from trioasgi.http.request import Header
    from trioasgi.http1.body import SizedBody
    from trioasgi.http1.request import HTTP1Request
    from trioasgi.http1.state import ConnectionState
    from trioasgi.net.channel import Channel

YIELD_EVERY: Final = 256 * 1024
"""Bytes of a body after which other connections get their turn, even if the client sends without a pause."""

PIECE_COST: Final = 32 * 1024
"""Each piece counts for so many bytes more than it has. A client may send them one by one, each in a chunk
with long extensions to check.
"""

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_NONE: Final = Framing.NONE


async def let_others_run(body: SizedBody | ChunkedBody | None) -> None:
    """Let other tasks run after `YIELD_EVERY` of a body. Tiny chunks are a long step, which waits for its
    turn (`net.turns`).
    """
    if isinstance(body, ChunkedBody):
        await wait_for_long_step()
        await trio.lowlevel.checkpoint_if_cancelled()
    else:
        await trio.lowlevel.checkpoint()


class HTTP1Exchange(HTTP1Response):
    """One request and its response."""

    __slots__ = ("_pace", "_reads", "_since_yield", "scope")

    def __init__(self, connection: ConnectionState, request: HTTP1Request) -> None:
        self._connection = connection
        self.request = request
        self.offers_informational = request.http_version == "1.1"
        self.offers_trailers = request.accepts_trailers
        self.on_end = None
        # The response
        self.phase = _NOT_STARTED
        self.status = 0
        self.sent = 0
        self.close_after = not request.keep_alive
        self._owes_continue = request.expects_continue
        self._framing = _NONE
        self._head = b""
        self._recallable = b""
        self._trailers = b""
        self._failure = None
        self._waited_for = self._in_file = False
        # The call
        self.scope: trio.CancelScope | None = connection.scope
        """The scope of the call's task while the call is under way."""
        self._since_yield = 0
        self._reads = 0  # how often bytes of the body have come
        self._pace: Pace | None = None

    # The request

    @property
    def disconnected(self) -> bool:
        return self.over or self._connection.channel.hung_up

    @property
    def is_lost(self) -> bool:
        scope = self.scope
        was_cancelled = self.disconnected and scope is not None and scope.cancel_called
        return was_cancelled or self._connection.channel.is_broken

    async def wait_disconnected(self) -> None:
        self._waited_for = True
        connection = self._connection
        while not self.disconnected:
            try:
                await connection.channel.wait_hung_up()
            except trio.Cancelled:
                connection.look_ahead()
                raise

    async def receive_body(self) -> tuple[bytes, bool]:
        connection = self._connection
        reader = connection.reader
        if self._since_yield >= YIELD_EVERY:
            await self._yield()
        has_read = False
        while True:
            if self.phase is not _NOT_STARTED and self.over:
                raise ClientDisconnected("the exchange is over")
            try:
                piece = reader.next_body()
            except RequestError as error:
                connection.log_limit(refusal_text(error.rule))
                self.fail(error.rule.status, error.rule.reason)
                raise ClientDisconnected(error.rule.reason) from error
            if piece is not None:
                break
            if has_read:
                # A read may bring extensions or trailers alone, and no piece.
                self._since_yield += PIECE_COST
                if self._since_yield >= YIELD_EVERY:
                    await self._yield()
                    continue  # it may be over by now
            await self._receive_more()
            has_read = True
        self._owes_continue = False  # the body has come without it
        if reader.body is not None:
            self._since_yield += len(piece) + PIECE_COST
            return piece, True
        if self._waited_for:
            # Another task of the call may wait for the body. The next bytes belong to the next request.
            connection.channel.interrupt_read()
        return piece, False

    async def _yield(self) -> None:
        """Let others run. If this is cancelled, no piece is lost."""
        self._since_yield = 0
        await let_others_run(self._connection.reader.body)

    async def _receive_more(self) -> None:
        """Read bytes of the body. First send 100 (Continue) if the client waits for it (RFC 9110, 10.1.1)."""
        connection = self._connection
        channel = connection.channel
        reads = self._reads
        try:
            if self._owes_continue:
                self._owes_continue = False
                # A head that has left takes its place. One that still waits for its body cannot.
                may_send = self.phase is _NOT_STARTED or bool(self._head)
                if may_send and not channel.send_nowait(CONTINUE):
                    await channel.flush()
                    return  # it may be over by now
            data = channel.receive_nowait()
            if data is None:
                data = await self._wait_for_body()
        except trio.Cancelled:
            connection.look_ahead()
            raise
        except TimeoutError as exc:
            if self.over:
                raise ClientDisconnected("the exchange is over") from None
            if connection.reader.body is None or self._reads != reads:
                return  # another task of the call has received what came
            rule = self._limit_of_body
            connection.log_limit(refusal_text(rule))
            self.fail(rule.status, rule.reason)
            raise ClientDisconnected("the client stopped sending the body") from exc
        except OSError as exc:
            raise self._broken(exc) from exc
        if not data:
            # The rest of the body will never come. A client that has closed only its sending side can still
            # receive the response.
            self.close_after = True
            raise ClientDisconnected("the client closed the connection within the body")
        self._reads += 1
        connection.reader.receive_data(data)

    @property
    def _limit_of_body(self) -> Rule:
        """The rule whose deadline ends a wait for the body now."""
        is_paced = self._pace is not None and self._pace.patience < self._connection.settings.timeout_body
        return Rule.BODY_RATE if is_paced else Rule.BODY_TIMEOUT

    async def _wait_for_body(self) -> bytes:
        """Wait for bytes, as long as some come in time, if only a part of a TLS record."""
        connection = self._connection
        channel, settings = connection.channel, connection.settings
        self._waited_for = True
        if settings.body_rate and self._pace is None:
            self._pace = Pace(settings.body_rate)
        pace = self._pace
        data = None
        came = channel.now()
        while data is None:
            part, began = channel.part, channel.now()
            came = max(came, channel.part_at)
            deadline = came + settings.timeout_body
            if pace is not None:
                deadline = min(deadline, began + pace.patience)
            channel.read_deadline = deadline
            data = await self._receive_in_time(part, was_late=pace is not None and pace.patience <= 0)
            if pace is not None:
                pace.note(len(data or b"") + channel.part - part, began, channel.now(), deadline)
        return data

    async def _receive_in_time(self, part: int, *, was_late: bool) -> bytes | None:
        """Wait for bytes. Those that came while the server itself was late are in time, unless the client
        `was_late` before. None if nothing can be read, but more has come of a TLS record than `part` bytes.
        """
        connection = self._connection
        channel = connection.channel
        try:
            return await channel.receive()
        except TimeoutError:
            if was_late or self.over or connection.reader.body is None:
                raise  # or interrupted: the next bytes belong to the next request
        data = await channel.receive_late()
        if not data and channel.part == part:
            raise TimeoutError(STALLED_READ)
        return data or None

    # WebSockets

    def check_websocket(self) -> Refusal | None:
        from trioasgi.websocket.handshake import check_upgrade  # most servers see no WebSocket

        return check_upgrade(self.request.method, self.request.headers)

    def decline_websocket(self) -> None:
        # Frames may follow the handshake, and they are no request.
        self.close_after = True

    def accept_websocket(self, headers: Sequence[Header]) -> tuple[Channel, bytes]:
        from trioasgi.websocket.handshake import accept_field

        connection = self._connection
        channel = connection.channel
        fields = (accept_field(self.request.headers), *headers)
        lines, _, _ = connection.heads.encode(101, fields)
        self.status = 101
        self.close_after = True
        self._send(b"".join((*lines, UPGRADE_WEBSOCKET, b"\r\n")))
        self._complete()
        channel.read_deadline = math.inf
        return channel, connection.reader.take_rest()

    # Its call

    @property
    def call_scope(self) -> trio.CancelScope:
        scope, connection = self.scope, self._connection
        if scope is None:
            return trio.CancelScope()  # the call is over: there is nothing left to cancel
        connection.lends_scope = connection.sets_deadlines = True
        return scope

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._connection.on_drain(callback)
