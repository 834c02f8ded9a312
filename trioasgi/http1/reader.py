"""`RequestReader`: the sans-IO reader of one connection. Bytes in, requests and bodies out, in order.

::

    receive_data(bytes)*  →  next_request()  →  next_body()* until b""  →  next_request() …

It finds where a head and a body begin and end, and keeps what has come too early; the codec reads the fields.
What it holds is bounded: a head by the limits, a body by nothing but what was received in one read, for
nobody calls `receive_data` while there is something to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioasgi.http1.body import ChunkedBody, SizedBody
from trioasgi.http1.rules import check_beginning, read_head

if TYPE_CHECKING:
    from trioasgi.http1.codec import Codec, HTTP1Request, Limits


class RequestReader:
    """Reads requests with `codec` within `limits`."""

    __slots__ = ("_body", "_codec", "_data", "_limits", "_pos", "_searched")

    def __init__(self, codec: Codec, limits: Limits) -> None:
        self._codec = codec
        self._limits = limits
        self._data = b""
        self._pos = 0
        self._searched = 0
        self._body: SizedBody | ChunkedBody | None = None

    @property
    def mid_head(self) -> bool:
        """Has a part of a head arrived, but not all of it? (To be asked when `next_request` has said that
        it needs more.)
        """
        return self._pos < len(self._data)

    @property
    def holds_data(self) -> bool:
        """Are there bytes that nobody has taken yet?"""
        return self._pos < len(self._data)

    @property
    def body_done(self) -> bool:
        """Has the body of the last request been read to its end?"""
        return self._body is None

    @property
    def body_left(self) -> int | None:
        """How many bytes of the body have not been read; None if its length is not known."""
        match self._body:
            case None:
                return 0
            case SizedBody(left=left):
                return left
            case _:
                return None

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
            return None
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
        self._pos = self._searched = end
        head = data if pos == 0 and end == len(data) else data[pos:end]
        request = read_head(head, self._codec, self._limits)
        if request.content_length:
            self._body = SizedBody(request.content_length)
            self._codec.skip_body()
        elif request.chunked:
            self._body = ChunkedBody(self._limits)
            self._codec.skip_body()
        return request

    def _skip_empty_lines(self) -> int:
        """RFC 9112, 2.2: empty lines before a request line are passed over; they count for nothing else."""
        data, pos = self._data, self._pos
        while pos < len(data) and data[pos] in (13, 10):
            pos += 1
        self._pos = pos
        return pos

    def next_body(self) -> bytes | None:
        """The next piece of the body, b"" at its end, or None if more bytes are needed.

        Raises RequestError.
        """
        if self._body is None:
            return b""
        piece, self._pos = self._body.take(self._data, self._pos)
        if piece == b"":
            self._body = None
            self._searched = self._pos
        return piece
