"""`HTTP1Exchange`: one request and its response on an HTTP/1 connection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import BodyLengthError, ClientDisconnected
from trioasgi.http.exchange import Exchange, ResponsePhase
from trioasgi.http1.call_scope import HTTP1CallScope
from trioasgi.http1.encoder import (
    CONNECTION_CLOSE,
    CONNECTION_KEEP_ALIVE,
    CONTINUE,
    NO_CONTENT_LENGTH,
    TRANSFER_ENCODING_CHUNKED,
    UPGRADE_WEBSOCKET,
    Framing,
    encode_chunk,
    encode_informational,
    frame_file,
)
from trioasgi.http1.pace import Pace
from trioasgi.http1.refusals import error_answer, refusal_text
from trioasgi.http1.rule import RequestError, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trioasgi.http.exchange import Header
    from trioasgi.http1.codec import HTTP1Request
    from trioasgi.http1.state import ConnectionState
    from trioasgi.net.channel import Channel

YIELD_EVERY: Final = 256 * 1024
"""Bytes of a body after which its reader lets other connections run, however fast its own client sends."""

PIECE_COST: Final = 16 * 1024
"""Bytes that each piece counts for besides its own, as a client may send them one by one."""

PASSED: Final = -math.inf
"""A deadline that has come."""

JOIN_BELOW: Final = 64 * 1024
"""A body of up to so many bytes is copied behind its head, so that both leave in one send; a larger one
costs less in a second send.
"""

_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_ENDING: Final = ResponsePhase.ENDING
_COMPLETE: Final = ResponsePhase.COMPLETE
_REFUSED: Final = ResponsePhase.REFUSED
_FAILED: Final = ResponsePhase.FAILED

_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_LOST: Final = Framing.LOST

_BODILESS: Final = frozenset({204, 205, 304})
"""Responses that have no content, whatever the application sends (RFC 9110, 15.3.5, 15.3.6, 15.4.5)."""


class HTTP1Exchange(Exchange):
    """One request and its response.

    The head of a response with a known length, or without a body, waits for the first piece of body, so that
    both leave in one send. Any other head, and a piece behind which more is to come, leaves in the same
    round of the scheduler: at once for a stream's client, and yet together with what the application sends
    before it waits.
    """

    __slots__ = (
        "_by_server",
        "_connection",
        "_ended",
        "_failure",
        "_framing",
        "_head",
        "_left",
        "_lost",
        "_on_cut",
        "_owes_continue",
        "_pace",
        "_recallable",
        "_since_yield",
        "_trailers",
        "_waited_for",
        "close_after",
        "scope",
    )

    def __init__(self, connection: ConnectionState, request: HTTP1Request) -> None:
        self._connection = connection
        self.scope: trio.CancelScope | None = connection.scope
        """That of the task which makes the call, for as long as the call is under way."""
        fields = request.fields
        self.request = request
        self.phase = _NOT_STARTED
        self.status = 0
        self.sent = 0
        self.close_after = not fields.keep_alive
        self._owes_continue = fields.expects_continue
        self._head = b""
        self._framing = _NONE
        self._left = 0
        self._since_yield = 0
        self._trailers = b""
        self._pace: Pace | None = None
        self._waited_for = False

    # The request

    @property
    def disconnected(self) -> bool:
        return self.over or self._connection.channel.hung_up

    @property
    def over(self) -> bool:
        """Is there nothing left to be sent?"""
        phase = self.phase
        return phase is _COMPLETE or phase is _REFUSED or phase is _FAILED

    async def wait_disconnected(self) -> None:
        self._waited_for = True
        while not self.disconnected:
            await self._connection.channel.wait_hung_up()

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
                # Of what there is between pieces, extensions and trailers, there may be little in each read.
                self._since_yield += PIECE_COST
                if self._since_yield >= YIELD_EVERY:
                    await self._yield()
                    continue  # it may be over by now
            await self._receive_more()
            has_read = True
        self._owes_continue = False  # it has come, told to or not
        if reader.body is None and self._waited_for:
            # Another task of the call may wait for more of it: what comes now is the next request's.
            connection.channel.interrupt_read()
        if piece:
            self._since_yield += len(piece) + PIECE_COST
        return piece, reader.body is not None

    async def _yield(self) -> None:
        """Let others run, or be cancelled: no piece is in our hands."""
        self._since_yield = 0
        await trio.lowlevel.checkpoint()

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
                    return  # it may be over by now
            data = channel.receive_nowait()
            if data is None:
                data = await self._wait_for_body()
        except TimeoutError as exc:
            if self.over:
                raise ClientDisconnected("the exchange is over") from None
            if connection.reader.body is None:
                return  # another task of the call has got the last of it
            rule = Rule.BODY_TIMEOUT
            connection.log_limit(refusal_text(rule))
            self.fail(rule.status, rule.reason)
            raise ClientDisconnected("the client stopped sending the body") from exc
        except OSError as exc:
            raise self._broken() from exc
        if not data:
            # The rest of the body will never come. What the application has to say of that still reaches a
            # client that has only closed its sending side.
            self.close_after = True
            raise ClientDisconnected("the client closed the connection within the body")
        connection.reader.receive_data(data)

    async def _wait_for_body(self) -> bytes:
        connection = self._connection
        channel, settings = connection.channel, connection.settings
        self._waited_for = True
        began = channel.now()
        channel.read_deadline = began + settings.timeout_body
        if not settings.body_rate:
            return await channel.receive()
        if self._pace is None:
            self._pace = Pace(settings.body_rate)
        channel.read_deadline = min(channel.read_deadline, began + self._pace.patience)
        data = await channel.receive()
        self._pace.note(len(data), channel.now() - began)
        return data

    # The response

    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        if self.request.http_version == "1.0":
            return False  # RFC 9110, 15.2: a 1.0 client does not know of them
        if self.phase is _STARTED and not self._head:
            return False  # the head of the final response has left
        return self._send(encode_informational(status, headers))

    def send_head(self, status: int, headers: tuple[Header, ...], length: int | None) -> bool:
        self.status = status
        self.phase = _STARTED
        connection = self._connection
        head, closes = connection.settings.heads.encode(status, headers)
        if closes:
            self.close_after = True
        request = self.request
        if length is None or status in _BODILESS or request.method == "HEAD":
            framing = self._choose_framing(status, length)
        else:
            self._framing = _LENGTH
            self._left = length
            framing = b"content-length: %d\r\n" % length
        ordinary = not (
            self.close_after
            or self._owes_continue
            or connection.draining
            or connection.reader.body is not None
            or request.http_version != "1.1"
        )
        head = b"".join((head, framing, b"\r\n" if ordinary else self._choose_persistence()))
        if self._framing is _LENGTH or self._framing is _NONE:
            self._head = head
            return False
        self._recallable = head
        if connection.attends:
            connection.attend()
        return self._send_soon(head)

    def _choose_framing(self, status: int, length: int | None) -> bytes:
        """Choose how a body will end that has no length, or may not be; the line that says so.

        RFC 9112, 6.1 to 6.3; RFC 9110, 8.6.
        """
        if status in _BODILESS or self.request.method == "HEAD":
            self._framing = _NONE
            if status == 204 or length is None:
                return NO_CONTENT_LENGTH if status == 205 else b""
            return b"content-length: %d\r\n" % (0 if status == 205 else length)
        if self.request.http_version == "1.1":
            self._framing = _CHUNKED
            return TRANSFER_ENCODING_CHUNKED
        self._framing = Framing.CLOSE
        self.close_after = True
        return b""

    def _choose_persistence(self) -> bytes:
        """End the head, having said whether the connection goes on (RFC 9112, 9.3 and 9.6)."""
        connection = self._connection
        reader = connection.reader
        unread = reader.body is not None and reader.body_too_long_to_skip
        if unread or self._owes_continue or connection.draining:
            # With an expectation unanswered nobody knows whether the body will come (RFC 9110, 10.1.1).
            self.close_after = True
        if self.close_after:
            return CONNECTION_CLOSE + b"\r\n"
        if self.request.http_version == "1.0":
            return CONNECTION_KEEP_ALIVE + b"\r\n"
        return b"\r\n"

    def send_body(self, data: bytes, more: bool) -> bool:
        framing = self._framing
        if framing is _NONE:
            data = b""
        else:
            self._count(len(data), more)
            if framing is _CHUNKED:
                data = encode_chunk(data, more, self._trailers)
        if self._head:
            head, self._head = self._head, b""
            if not data and more:
                self._recallable = head
                return self._send_soon(head)
            if len(data) <= JOIN_BELOW:
                data = head + data
            else:
                self._send(head)
        if more:
            if self._connection.attends:
                self._connection.attend()
            return self._send_soon(data) if data else False
        if self._send(data):
            self.phase = _ENDING
            return True
        self._complete()
        return False

    def _count(self, size: int, more: bool) -> None:
        """Hold the body to its Content-Length."""
        if self._framing is _LENGTH:
            left = self._left = self._left - size
            if left and (left < 0 or not more):
                self._left += size
                raise self._wrong_length(left)
        elif self._framing is _LOST:
            raise BodyLengthError("the response cannot go on: a file was given up before all of it was sent")
        self.sent += size

    def _wrong_length(self, left: int) -> BodyLengthError:
        if left < 0:
            return BodyLengthError(f"the response body is {-left} bytes longer than its Content-Length")
        length = self.sent + self._left
        return BodyLengthError(f"the response body ended {left} bytes before its Content-Length of {length}")

    async def send_file(self, fd: int, offset: int, count: int, more: bool) -> None:
        framing = self._framing
        if framing is _NONE or count == 0:
            if self.send_body(b"", more):
                await self.flush()
            return
        self._count(count, more)
        before, behind = frame_file(count, more, self._trailers) if framing is _CHUNKED else (b"", b"")
        self._framing = _LOST  # until all of it has been sent: this may be cancelled
        head, self._head = self._head, b""
        if (head or before) and self._send(head + before):
            await self.flush()
        with self._telling_of_disconnect():
            try:
                await self._connection.channel.send_file(fd, offset, count)
            except EOFError as exc:
                self.abort(str(exc))
                raise
        self._framing = framing
        waits = self._send(behind) if behind else False
        if not more:
            self.phase = _ENDING
            if not waits:
                self._complete()
        if waits:
            await self.flush()

    def add_trailers(self, headers: Sequence[Header]) -> None:
        if self.request.accepts_trailers:
            self._trailers += b"".join([b"%b: %b\r\n" % field for field in headers])

    @property
    def call_scope(self) -> HTTP1CallScope:
        return HTTP1CallScope(self._connection, self)

    def on_cut(self, callback: Callable[[Exchange], None]) -> None:
        self._on_cut = callback

    @property
    def failure(self) -> str:
        # Not set where all is well: that is a store less for each request.
        return getattr(self, "_failure", "")

    @property
    def cut_by_server(self) -> bool:
        return getattr(self, "_by_server", False)

    @property
    def ended(self) -> bool:
        return self.phase is _COMPLETE or getattr(self, "_ended", False)

    def end(self) -> None:
        """For the connection: everything has left that ever will."""
        self._ended = True
        # Not set where all is well: that is a store less for each request.
        callback: Callable[[Exchange], None] | None = getattr(self, "_on_cut", None)
        if callback is not None:
            callback(self)

    def cut_off(self, reason: str) -> None:
        """For the connection: it ends now, whatever has not left yet."""
        connection = self._connection
        if not self.over:
            connection.log_limit(reason)
            self._lose(reason, by_server=not connection.channel.hung_up)
        elif self.phase is _REFUSED and connection.channel.unsent:
            self._lose(self.failure, by_server=not connection.channel.hung_up)
        self.end()

    @property
    def delivered(self) -> int | None:
        if self.phase is _COMPLETE:
            return self.sent
        lost = getattr(self, "_lost", None)
        if lost is None:
            lost = self._connection.channel.unsent
        # What frames the pieces is not counted as they are sent: it is taken for less than a head.
        framing = len(self._recallable) - 1 if self._framing is _CHUNKED else 0
        if self._head or not self.status or lost > self.sent + framing:
            return None
        return max(0, self.sent - lost)

    def _complete(self) -> None:
        self.phase = _COMPLETE
        connection = self._connection
        if connection.sets_deadlines:
            connection.response_over()
        if self.close_after or connection.reader.has_more:
            # The next request is here already, or the client waits for the end of the connection: if the
            # application goes on for long, another task sees to that.
            connection.channel.read_deadline = PASSED
        if self._waited_for:
            self._end_waits()

    def _end_waits(self) -> None:
        """End what other tasks wait for in `receive()`: the exchange is over."""
        connection = self._connection
        connection.channel.release_watchers()
        connection.channel.interrupt_read()  # from here on the connection reads

    def upgrade(self, headers: Sequence[Header]) -> tuple[Channel, bytes]:
        connection = self._connection
        channel = connection.channel
        head, _ = connection.settings.heads.encode(101, tuple(headers))
        self.status = 101
        self.close_after = True
        self._send(b"".join((head, UPGRADE_WEBSOCKET, b"\r\n")))
        self._complete()
        channel.read_deadline = math.inf
        return channel, connection.reader.take_rest()

    def on_drain(self, callback: Callable[[], None]) -> None:
        self._connection.on_drain(callback)

    def _send(self, data: bytes) -> bool:
        try:
            return not self._connection.channel.send_nowait(data)
        except OSError as exc:
            raise self._broken() from exc

    def _send_soon(self, data: bytes) -> bool:
        """Send a piece behind which another may come at once, to leave with it."""
        try:
            return not self._connection.channel.send_soon(data)
        except OSError as exc:
            raise self._broken() from exc

    async def flush(self) -> None:
        connection = self._connection
        channel = connection.channel
        connection.flushing += 1
        if connection.attends:
            connection.attend()
        try:
            with self._telling_of_disconnect():
                await channel.flush()
        finally:
            connection.flushing -= 1
        if connection.attends:
            connection.attend()
        # Another task may have given the end of the response while we waited: its own flush sees to that.
        if self.phase is _ENDING and not channel.unsent:
            self._complete()

    @contextmanager
    def _telling_of_disconnect(self) -> Iterator[None]:
        """Make what goes wrong with the connection the application's ClientDisconnected."""
        try:
            yield
        except TimeoutError as exc:
            self._connection.log_limit("the client took nothing of the response for too long")
            self._lose("the client stopped reading the response", by_server=True)
            raise ClientDisconnected("the client stopped reading the response") from exc
        except OSError as exc:
            raise self._broken() from exc

    def _broken(self) -> ClientDisconnected:
        """Give the response up, as its connection is broken: what to raise."""
        reason = "the client broke the connection"
        self._lose(reason, by_server=False)
        return ClientDisconnected(reason)

    def _lose(self, reason: str, *, by_server: bool) -> None:
        """The connection is broken, for all who use it: whatever else waits for it need wait no longer."""
        channel = self._connection.channel
        if getattr(self, "_lost", None) is None:
            self._lost = channel.unsent
        self._give_up(reason, by_server=by_server)
        channel.abort()

    def _give_up(self, reason: str, *, by_server: bool) -> None:
        self._failure = reason
        self._by_server = by_server
        self.phase = _FAILED
        self.close_after = True
        self._end_waits()

    @property
    def ends_with_connection(self) -> bool:
        """Is it the connection's end alone that tells where the body ends?"""
        return self._framing is Framing.CLOSE or self._framing is _LOST

    def fail(self, status: int, reason: str) -> None:
        if self.over or self.phase is _ENDING:
            return
        if self.phase is _STARTED and not self._take_head_back():
            self.abort(reason)
            return
        self._failure = reason
        with_body = self.request.method != "HEAD"
        answer, size = error_answer(self._connection.settings.heads, status, reason, with_body=with_body)
        self._refuse(status, answer, size)
        self._end_waits()

    def _refuse(self, status: int, answer: bytes, size: int) -> None:
        """Answer in the application's place; `size` is the bytes of the answer's body."""
        self.status = status
        self.sent = size
        self.close_after = True
        self._framing = _LENGTH
        try:
            self._send(answer)
        except ClientDisconnected:
            return
        self.phase = _REFUSED

    def _take_head_back(self) -> bool:
        """Forget the head that was given, if it has not left and no body was given with it."""
        head, self._head = self._head, b""
        recallable = getattr(self, "_recallable", b"")  # a head that may not have left yet
        return bool(head) or (
            not self.sent and bool(recallable) and self._connection.channel.take_back(recallable)
        )

    def abort(self, reason: str) -> None:
        if not self.over and self.phase is not _ENDING:
            self._connection.log_limit(reason)
            self._give_up(reason, by_server=not self._connection.channel.hung_up)
