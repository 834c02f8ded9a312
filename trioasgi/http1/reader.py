"""`RequestReader`: reads one connection without I/O. Bytes go in, requests and bodies come out, in order.

::

    receive_data(bytes)*  →  next_request()  →  next_body()* until b""  →  next_request() …

It finds where heads and bodies begin and end, and keeps bytes that have come too early. The codec reads the
fields. Its memory is bounded: the limits bound a head. Of a body it holds the bytes of one read, because
`receive_data` is called only when everything has been taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.http1.body import ChunkedBody, SizedBody
from trioasgi.http1.request_line import HeadBeginning
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.http1.rules import HeadReader

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits
    from trioasgi.http1.codec import Codec
    from trioasgi.http1.request import HTTP1Request


MAX_SKIP: Final = 64 * 1024
"""If the application has left the end of a body unread, at most so many bytes are dropped to keep the
connection.
"""

MAX_EMPTY: Final = 32
"""At most so many bytes of empty lines are skipped before a request (RFC 9112, 2.2)."""


LONG_HEAD: Final = 16 * 1024
"""Bytes. Reading a longer head is a long step, which waits for its turn (`net.turns`)."""


_LINE_ENDS: Final = b"\r\n"
_CR: Final = 13  # LF is less


class RequestReader:
    """Reads the requests of a connection of this `scheme`, with `codec` and within `limits`."""

    __slots__ = (
        "_beginning",
        "_data",
        "_empty",
        "_heads",
        "_limits",
        "_pos",
        "body",
        "has_more",
        "needs_turn",
        "part",
    )

    def __init__(self, codec: Codec, limits: Limits, scheme: str) -> None:
        self._heads = HeadReader(codec, limits, scheme)
        self._limits = limits
        self._data = b""
        self._pos = 0
        self.part: bytearray | None = None
        """The beginning of a head that does not come in one read. The buffer grows in place."""
        self._beginning: HeadBeginning | None = None
        self._empty = 0  # bytes of empty lines before the next request
        self.body: SizedBody | ChunkedBody | None = None
        """The body of the last request; None once it has been read to its end."""
        self.has_more = False
        """Have bytes come behind the last request and the part of its body that was read?"""
        self.needs_turn = False
        """Did `next_request` return None because of a long head? The caller must wait for its turn first."""

    @property
    def holds_data(self) -> bool:
        """Are there bytes that were not taken yet, such as an incomplete head?"""
        return self._pos < len(self._data) or self.part is not None

    @property
    def body_too_long_to_skip(self) -> bool:
        """Is the rest of the body known to be longer than `MAX_SKIP`?"""
        return isinstance(self.body, SizedBody) and self.body.left > MAX_SKIP

    def receive_data(self, data: bytes) -> None:
        """Take received bytes. `next_request` and `next_body` read them."""
        if self.part is not None:
            self.part += data
        elif self._pos < len(self._data):
            self._data = self._data[self._pos :] + data
            self._pos = 0
        else:
            self._data = data
            self._pos = 0

    def receive_end(self) -> None:
        """Note the end of the stream. Raises RequestError if a head is incomplete."""
        if self.holds_data:
            raise RequestError(Rule.HEAD_CUT)

    def next_request(self) -> HTTP1Request | None:
        """The next request. None if more bytes are needed, or if `needs_turn` is set.

        Raises RequestError; then nothing more can be read.
        """
        if self.part is not None and not self._has_come(self.part):
            return None
        data = self._data
        size = len(data)
        if 4 < size <= LONG_HEAD and data.find(b"\r\n\r\n") == size - 4 and not self._pos and data[0] > _CR:
            # A whole head and nothing more, as most reads bring.
            request = self._heads.read(data)
            self._data = b""
            self.has_more = False
        else:
            end = self._find_end()
            if end is None:
                return None
            request = self._heads.read(data[self._pos : end])
            self.has_more = end < len(data)
            self._pos = end
            if not self.has_more:
                self._let_go()
        self._empty = 0
        if request.content_length:
            self.body = SizedBody(request.content_length)
        elif request.chunked:
            self.body = ChunkedBody(self._limits)
        return request

    def _find_end(self) -> int | None:
        """Where the next head ends. None if it is not whole, or has to wait for its turn."""
        data, pos = self._data, self._pos
        if pos == len(data):
            self._let_go()
            return None
        if data[pos] in _LINE_ENDS:
            pos = self._skip_empty_lines()
        end = data.find(b"\r\n\r\n", pos) + 4
        if end < 4:
            self._gather()
            return None
        if end - pos > LONG_HEAD and not self.needs_turn:
            self.needs_turn = True
            return None
        self.needs_turn = False
        return end

    def _gather(self) -> None:
        """Move an incomplete head, if there is one, to a buffer of its own."""
        part = self._data[self._pos :]
        self._let_go()
        if part:
            self.part = bytearray(part)
            self._beginning = HeadBeginning(self._limits)
            self._beginning.check(part)

    def _has_come(self, part: bytearray) -> bool:
        """Is the gathered head complete? If so, move it to `_data`."""
        beginning = self._beginning
        assert beginning is not None
        # CRLF CRLF may begin within the last three bytes of the part that was searched before.
        if part.find(b"\r\n\r\n", max(beginning.seen - 3, 0)) < 0:
            beginning.check(part)
            return False
        self._data, self._pos = bytes(part), 0
        self.part = self._beginning = None
        return True

    def would_end_head(self, data: bytes) -> bool:
        """Would `data` be the end of the head of which a part may have come?"""
        return b"\r\n\r\n" in (self.part or b"")[-3:] + data

    def _skip_empty_lines(self) -> int:
        """Skip empty lines before a request line (RFC 9112, 2.2)."""
        start = self._data[self._pos : self._pos + MAX_EMPTY + 1]
        size = len(start) - len(start.lstrip(b"\r\n"))
        self._empty += size
        if self._empty > MAX_EMPTY:
            raise RequestError(Rule.EMPTY_LINES)
        self._pos += size
        return self._pos

    def take_rest(self) -> bytes:
        """The bytes that were not taken, for the protocol that reads the connection from here on."""
        rest = self._data[self._pos :] if self.part is None else bytes(self.part)
        self.part = self._beginning = None
        self._let_go()
        return rest

    def next_body(self) -> bytes | None:
        """The next piece of the body, b"" at its end, or None if more bytes are needed.

        Raises RequestError.
        """
        body, data = self.body, self._data
        if body is None:
            return b""
        if self._pos == len(data):
            self._let_go()
            return None
        piece, self._pos = body.take(data, self._pos)
        if body.done:
            self.body = None
            self.has_more = self._pos < len(data)
        elif piece is not None:
            return piece
        if self._pos == len(data):
            self._let_go()
        return piece

    def _let_go(self) -> None:
        """Drop consumed bytes: the next wait may be long."""
        self._data = b""
        self._pos = 0
