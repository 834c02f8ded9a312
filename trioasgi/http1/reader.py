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
from trioasgi.http1.rules import HeadReader, check_beginning

if TYPE_CHECKING:
    from trioasgi.http1.codec import Codec, HTTP1Request
    from trioasgi.http1.settings import Limits


MAX_SKIP: Final = 64 * 1024
"""Bytes of a body that the application has left unread which are read and dropped to keep the connection."""


class RequestReader:
    """Reads requests with `codec` within `limits`."""

    __slots__ = ("_data", "_heads", "_limits", "_pos", "_searched", "body")

    def __init__(self, codec: Codec, limits: Limits) -> None:
        self._heads = HeadReader(codec, limits)
        self._limits = limits
        self._data = b""
        self._pos = 0
        self._searched = 0
        self.body: SizedBody | ChunkedBody | None = None
        """What is left of the body of the last request; None once it has been read to its end."""

    @property
    def holds_data(self) -> bool:
        """Are there bytes that nobody has taken yet? (When `next_request` needs more: has a head begun?)"""
        return self._pos < len(self._data)

    @property
    def body_too_long_to_skip(self) -> bool:
        """Is more left of the body than `MAX_SKIP`, as far as its length is known?"""
        return isinstance(self.body, SizedBody) and self.body.left > MAX_SKIP

    def receive_data(self, data: bytes) -> None:
        """Take bytes off the wire. What they contain is looked at in `next_request` and `next_body`."""
        if self._pos < len(self._data):
            self._data = self._data[self._pos :] + data
            self._searched -= self._pos
        else:
            self._data = data
            self._searched = 0
        self._pos = 0

    def next_request(self) -> HTTP1Request | None:
        """The next request, or None if more bytes are needed.

        Raises RequestError, after which nothing more can be read.
        """
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
            # A head's end can begin in bytes that were searched before only within the last three of them.
            end = data.find(b"\r\n\r\n", max(pos, self._searched - 3))
            if end < 0:
                self._searched = len(data)
                if pos < len(data):
                    check_beginning(data[pos:], self._limits)
                return None
            end += 4
            request = heads.read(data[pos:end])
        self._pos = self._searched = end
        fields = request.fields
        if fields.content_length:
            self.body = SizedBody(fields.content_length)
        elif fields.chunked:
            self.body = ChunkedBody(self._limits)
        return request

    def _skip_empty_lines(self) -> int:
        """RFC 9112, 2.2: empty lines before a request line are passed over; they count for nothing else."""
        data, pos = self._data, self._pos
        while pos < len(data) and data[pos] in (13, 10):
            pos += 1
        self._pos = pos
        return pos

    def take_rest(self) -> bytes:
        """The bytes that nobody has taken, for whoever reads on when this reader is done."""
        rest = self._data[self._pos :]
        self._pos = self._searched = len(self._data)
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
            self._searched = self._pos
        elif piece is None and self._pos == len(self._data):
            self._let_go()
        return piece

    def _let_go(self) -> None:
        """Let go of what has been taken, as a long wait may be ahead."""
        self._data = b""
        self._pos = self._searched = 0
