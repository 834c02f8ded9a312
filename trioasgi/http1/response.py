"""The response of an HTTP/1 exchange: its framing, and what leaves in one send (RFC 9112, 6 and 7)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from trioasgi.errors import BodyLengthError, ClientDisconnected
from trioasgi.http.response import BODILESS, ResponsePhase
from trioasgi.http1.encoder import (
    CONNECTION_CLOSE,
    CONNECTION_KEEP_ALIVE,
    encode_informational,
    encode_trailers,
)
from trioasgi.http1.framing import Framing, choose_framing, encode_end, frame_file
from trioasgi.http1.losing import Failure, LosableResponse
from trioasgi.http1.refusals import error_answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trioasgi.http.request import Header
    from trioasgi.http.response_fields import GivenField

JOIN_BELOW: Final = 64 * 1024
"""A body of at most so many bytes is copied behind its head, so that one send takes both. For a larger one a
second send costs less than the copy.
"""

SMALL_CHUNK: Final = 4096
"""The data of a chunk of at most so many bytes is copied between its size and its end: one piece costs less
than three.
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
_CLOSE: Final = Framing.CLOSE


class HTTP1Response(LosableResponse):
    """The response of an exchange.

    If the length is known, or there is no body, the head waits for the first piece of body, so that one send
    takes both. Any other head leaves in the same round of the scheduler, and so does a piece that is not the
    last. So they leave at once, but in one send with what the application sends before it waits.
    """

    __slots__ = (
        "_in_file",
        "_owes_continue",
        "_trailers",
        "_waited_for",
    )

    # `HTTP1Exchange.__init__` sets all of these.
    _in_file: bool
    """Was a file begun, and not sent whole? The body cannot go on behind a part of it."""
    _trailers: bytes
    _owes_continue: bool
    _waited_for: bool
    """May another task be waiting for the body, or for the client's disconnect?"""

    # What the application gives

    def send_informational(self, status: int, headers: Sequence[Header]) -> bool:
        if not self.offers_informational:
            return False
        if self.phase is _STARTED and not self._head:
            return False  # the head of the final response has left
        return self._send(encode_informational(status, headers))

    def send_head(self, status: int, headers: Iterable[GivenField], trailers: bool = False) -> bool:
        connection, request = self._connection, self.request
        has_content = status not in BODILESS and request.method != "HEAD"
        # Only the chunked coding has trailers, and it has no length (RFC 9112, 7.1.2).
        takes_length = has_content and not (trailers and self.offers_trailers)
        lines, length, closes = connection.heads.encode(status, headers, takes_length)
        self.status = status
        self.phase = _STARTED
        if closes:
            self.close_after = True
        # What is promised is kept also where trailers take the place of the field.
        self._left = length if has_content else None
        if takes_length and length is not None:
            self._framing = _LENGTH
        else:
            self._framing, line = choose_framing(request, status, None if has_content else length)
            lines.append(line)
            if self._framing is _CLOSE:
                self.close_after = True
        ordinary = not (
            self.close_after
            or self._owes_continue
            or connection.draining
            or connection.reader.body is not None
            or request.http_version != "1.1"
        )
        lines.append(b"\r\n" if ordinary else self._choose_persistence())
        head = b"".join(lines)
        if self._framing is _LENGTH or self._framing is _NONE:
            self._head = head
            return False
        self._recallable = head
        if connection.attends:
            connection.attend()
        return self._send_soon(head)

    def _choose_persistence(self) -> bytes:
        """The end of the head, which says whether the connection persists (RFC 9112, 9.3 and 9.6)."""
        connection = self._connection
        reader = connection.reader
        unread = reader.body is not None and reader.body_too_long_to_skip
        if unread or self._owes_continue or connection.draining:
            # Without a 100 (Continue) the client may send the body or not (RFC 9110, 10.1.1).
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
            if self._in_file:
                raise _lost_file()
            size = len(data)
            left = self._left
            # As `count`, without a call for a body in one piece, or without a Content-Length.
            if left is None:
                self.sent += size
            elif not more and size == left:
                self._left = 0
                self.sent += size
            else:
                self.count(size, more)
            if framing is _CHUNKED:
                if more:
                    return self._send_chunk(data, size)
                data = encode_end(data, self._trailers)
        head = b""
        if self._head:
            head, self._head = self._head, b""
            if not data and more:
                self._recallable = data = head  # one object: `take_back` asks for it
                head = b""
            elif len(data) <= JOIN_BELOW:
                data, head = head + data, b""
        connection = self._connection
        if more:
            if not data:
                return False  # nothing leaves: a client that has gone stays gone
            if connection.attends:
                connection.attend()
            if head:
                return self._send_two(head, data)
            return self._send_soon(data)
        try:  # as `_send`, without a call for each response
            channel = connection.channel
            if not (channel.send_two_nowait(head, data) if head else channel.send_nowait(data)):
                self.phase = _ENDING
                return True
        except OSError as exc:
            self.phase = _ENDING  # it was given whole
            raise self._broken(exc) from exc
        self._complete()
        return False

    def _send_chunk(self, data: bytes, size: int) -> bool:
        """Send a chunk that is not the last. Empty data makes no chunk, as an empty chunk would end the body
        (RFC 9112, 7.1).
        """
        if not size:
            return False
        connection = self._connection
        if connection.attends:
            connection.attend()
        try:
            if size <= SMALL_CHUNK:
                return not connection.channel.send_soon(b"%x\r\n%b\r\n" % (size, data))
            return not connection.channel.send_soon(b"%x\r\n" % size, data, b"\r\n")
        except OSError as exc:
            raise self._broken(exc) from exc

    async def send_file(self, fd: int, offset: int, count: int, more: bool) -> None:
        framing = self._framing
        if framing is _NONE or count == 0:
            if self.send_body(b"", more):
                await self.flush()
            return
        if self._in_file:
            raise _lost_file()
        self.check_length(count, more)
        before, behind = frame_file(count, more, self._trailers) if framing is _CHUNKED else (b"", b"")
        self._in_file = True  # it stays so if this is cancelled
        head, self._head = self._head, b""
        channel = self._connection.channel
        with _WaitingForClient(self, whole=not more):
            if (head or before) and not channel.send_ahead_nowait(head + before):
                await channel.flush()
            self.count(count, more)  # not before: the file has not been given if the head does not leave
            try:
                await channel.send_file(fd, offset, count)
            except EOFError as exc:
                self.abort(str(exc))
                raise
        self._in_file = False
        waits = self._send(behind) if behind else False
        if not more:
            self.phase = _ENDING
            if not waits:
                self._complete()
        if waits:
            await self.flush()

    def add_trailers(self, headers: Sequence[Header]) -> None:
        if self.offers_trailers:
            self._trailers += encode_trailers(headers)

    def _complete(self) -> None:
        self.phase = _COMPLETE
        connection = self._connection
        if self.on_end is not None:
            self.end()
        if connection.sets_deadlines:
            connection.response_over()
        channel = connection.channel
        if self.close_after or connection.reader.has_more or channel.may_have_more:
            # The next request may be here already, or the client has left or waits for the close. If the
            # application goes on for long, another task takes the connection over.
            channel.call_back_soon()
        if self._waited_for:
            self._end_waits()

    def _send(self, data: bytes) -> bool:
        try:
            return not self._connection.channel.send_nowait(data)
        except OSError as exc:
            raise self._broken(exc) from exc

    def _send_two(self, head: bytes, data: bytes) -> bool:
        try:
            return not self._connection.channel.send_two_nowait(head, data)
        except OSError as exc:
            raise self._broken(exc) from exc

    def _send_soon(self, data: bytes) -> bool:
        """Send a piece that may wait for the next one, if that comes in the same round of the scheduler."""
        try:
            return not self._connection.channel.send_soon(data)
        except OSError as exc:
            raise self._broken(exc) from exc

    async def flush(self) -> None:
        try:
            await self._flush()
        except trio.Cancelled:
            if self.phase is _ENDING:
                # The response leaves all the same. Its call may go on, and wait until it is complete.
                self._connection.start_task(self._flush_end, self._connection.info.peer)
            raise

    async def _flush_end(self) -> None:
        with suppress(ClientDisconnected):
            await self._flush()

    async def _flush(self) -> None:
        channel = self._connection.channel
        with _WaitingForClient(self):
            await channel.flush()
        # While we waited, another task may have given the end of the response. Then its own flush completes
        # it.
        if self.phase is _ENDING and not channel.unsent:
            self._complete()

    @property
    def ends_with_connection(self) -> bool:
        """Does only the end of the connection mark the end of the body?"""
        return self._framing is _CLOSE

    @property
    def has_its_length(self) -> bool:
        """Has all been given that the client waits for, though the application may not have said so?"""
        return self._framing is _NONE or self._left == 0

    def take_head_back(self) -> bool:
        head, self._head = self._head, b""
        return bool(head) or (
            not self.sent and bool(self._recallable) and self._connection.channel.take_back(self._recallable)
        )

    def refuse(self, status: int, reason: str) -> None:
        """As `Exchange.refuse`. The connection closes after the answer."""
        with_body = self.request.method != "HEAD"
        answer, size = error_answer(self._connection.heads, status, reason, with_body=with_body)
        self._failure = Failure(reason)
        self.status = status
        self.sent = size
        self.close_after = True
        self._framing = _LENGTH
        try:
            self._send(answer)
        except ClientDisconnected:
            return
        self.phase = _REFUSED
        self._end_waits()


class _WaitingForClient:
    """While the body waits for the client to take something, the grace of a client that has gone does not run
    (`http1.giving_up`). Errors of the connection become ClientDisconnected. `whole`: will the response have
    been given whole?

    No generator with @contextmanager: since Python 3.12 its frame and the error refer to each other, and keep
    the connection until the next garbage collection.
    """

    __slots__ = ("_response", "_whole")

    def __init__(self, response: HTTP1Response, *, whole: bool = False) -> None:
        self._response = response
        self._whole = whole

    def __enter__(self) -> None:
        connection = self._response._connection
        connection.flushing += 1
        if connection.attends:
            connection.attend()

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        response = self._response
        connection = response._connection
        connection.flushing -= 1
        if isinstance(exc, OSError):
            if self._whole and response.phase is not _FAILED:  # another task may have noted why
                response.phase = _ENDING
            raise (response._stalled() if isinstance(exc, TimeoutError) else response._broken(exc)) from exc
        if connection.attends:
            connection.attend()


def _lost_file() -> BodyLengthError:
    return BodyLengthError("the response cannot go on: a file was given up before all of it was sent")
