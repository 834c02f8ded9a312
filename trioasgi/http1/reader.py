"""`RequestReader`: the sans-IO reader of one connection. Bytes in, requests and bodies out, in order.

::

    receive_data(bytes)*  →  next_request()  →  next_body()* until b""  →  next_request() …

It finds where a head and a body begin and end, and keeps what has come too early; the codec reads the fields.
What it holds is bounded: a head by the limits, a body by nothing but what was received in one read, for
nobody calls `receive_data` while there is something to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.http1.body import ChunkedBody, SizedBody
from trioasgi.http1.request_line import HeadBeginning
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.http1.rules import HeadReader

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits
    from trioasgi.http1.codec import Codec, HTTP1Request


MAX_SKIP: Final = 64 * 1024
"""Bytes of a body that the application has left unread which are read and dropped to keep the connection."""

MAX_EMPTY: Final = 32
"""Bytes of empty lines that are passed over before a request (RFC 9112, 2.2)."""


LONG_HEAD: Final = 16 * 1024
"""Bytes of a head from which reading it is a long step (h11 takes 2 ms and more)."""


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
        """What has come of a head that does not come in one read: a buffer of its own, which grows in place.
        """
        self._beginning: HeadBeginning | None = None
        self._empty = 0  # bytes of empty lines before the next request
        self.body: SizedBody | ChunkedBody | None = None
        """What is left of the body of the last request; None once it has been read to its end."""
        self.has_more = False
        """Has something come behind the last request and its body, as far as that has been read?"""
        self.needs_turn = False
        """Has a long head come, for which `next_request` has returned None? Others get their turn first."""

    @property
    def holds_data(self) -> bool:
        """Are there bytes that nobody has taken yet? (When `next_request` needs more: of a head, `part`.)"""
        return self._pos < len(self._data) or self.part is not None

    @property
    def body_too_long_to_skip(self) -> bool:
        """Is more left of the body than `MAX_SKIP`, as far as its length is known?"""
        return isinstance(self.body, SizedBody) and self.body.left > MAX_SKIP

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire. What they contain is looked at in `next_request` and `next_body`."""
        if self.part is not None:
            self.part += data
        elif self._pos < len(self._data):
            self._data = self._data[self._pos :] + data
            self._pos = 0
        else:
            self._data = data
            self._pos = 0

    def receive_end(self) -> None:
        """The client has sent its last byte. Raises RequestError if that is within a head."""
        if self.holds_data:
            raise RequestError(Rule.HEAD_CUT)

    def next_request(self) -> HTTP1Request | None:
        """The next request, or None if more bytes are needed, or if `needs_turn`.

        Raises RequestError, after which nothing more can be read.
        """
        if self.part is not None and not self._has_come(self.part):
            return None
        data, pos = self._data, self._pos
        if pos == len(data):
            self._let_go()
            return None
        heads = self._heads
        request = heads.request
        # What the client has said before ends where it ended then: there is no empty line within a head.
        if request is not None and data.startswith(heads.head, pos):
            end = pos + len(heads.head)
        else:
            if data[pos] in (13, 10):
                pos = self._skip_empty_lines()
            end = data.find(b"\r\n\r\n", pos)
            if end < 0:
                self._gather()
                return None
            end += 4
            if end - pos > LONG_HEAD and not self.needs_turn:
                self.needs_turn = True
                return None
            self.needs_turn = False
            request = heads.read(data[pos:end])
        self._empty = 0
        if end == len(data):
            self._let_go()
            self.has_more = False
        else:
            self._pos = end
            self.has_more = True
        fields = request.fields
        if fields.content_length:
            self.body = SizedBody(fields.content_length)
        elif fields.chunked:
            self.body = ChunkedBody(self._limits)
        return request

    def _gather(self) -> None:
        """Begin to gather a head whose end has not arrived, if one has begun."""
        part = self._data[self._pos :]
        self._let_go()
        if part:
            self.part = bytearray(part)
            self._beginning = HeadBeginning(self._limits)
            self._beginning.check(part)

    def _has_come(self, part: bytearray) -> bool:
        """Has the head that is gathered come to its end? It is in `_data` then."""
        beginning = self._beginning
        assert beginning is not None
        # Its end may have begun with the last three bytes that were looked at before.
        if part.find(b"\r\n\r\n", max(beginning.seen - 3, 0)) < 0:
            beginning.check(part)
            return False
        self._data, self._pos = bytes(part), 0
        self.part = self._beginning = None
        return True

    def _skip_empty_lines(self) -> int:
        """RFC 9112, 2.2: empty lines before a request line are passed over; they count for nothing else."""
        start = self._data[self._pos : self._pos + MAX_EMPTY + 1]
        size = len(start) - len(start.lstrip(b"\r\n"))
        self._empty += size
        if self._empty > MAX_EMPTY:
            raise RequestError(Rule.EMPTY_LINES)
        self._pos += size
        return self._pos

    def take_rest(self) -> bytes:
        """The bytes that nobody has taken, for whoever reads on when this reader is done."""
        rest = self._data[self._pos :] if self.part is None else bytes(self.part)
        self.part = self._beginning = None
        self._let_go()
        return rest

    def next_body(self) -> bytes | None:
        """The next piece of the body, b"" at its end, or None if more bytes are needed.

        Raises RequestError.
        """
        if self.body is None:
            return b""
        piece, self._pos = self.body.take(self._data, self._pos)
        if self.body.done:
            self.body = None
            self.has_more = self._pos < len(self._data)
        if (piece is None or self.body is None) and self._pos == len(self._data):
            self._let_go()
        return piece

    def _let_go(self) -> None:
        """Drop consumed bytes: the next wait may be long."""
        self._data = b""
        self._pos = 0
