"""Where a request's body ends (RFC 9112, 6 and 7.1), once for both codecs."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from trioasgi.http1.rules import Rule

if TYPE_CHECKING:
    from trioasgi.http1.settings import Limits

MAX_CHUNK_LINE: Final = 4096
"""Bytes of a chunk's first line: its size and its extensions, which RFC 9112, 7.1.1 says to bound."""

_CHUNK_LINE: Final = re.compile(
    rb"""
    ([0-9A-Fa-f]{1,16})
    (?: [ \t]*;[ \t]* [!\#$%&'*+\-.^_`|~0-9A-Za-z]+
        (?: [ \t]*=[ \t]*
            (?: [!\#$%&'*+\-.^_`|~0-9A-Za-z]+
              | "(?: [\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff] | \\[\t\x20-\x7e\x80-\xff] )*"
            )
        )?
    )*
    """,
    re.VERBOSE,
)

_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*")


class _Step(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


class ChunkedBody:
    """Decodes the chunked coding; trailers are checked, bounded by the header limits, and dropped (RFC
    9110, 6.5.1).
    """

    __slots__ = ("_left", "_limits", "_size", "_step", "_trailers", "_trailers_size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._step = _Step.SIZE
        self._left = 0
        self._size = 0
        self._trailers = 0
        self._trailers_size = 0

    @property
    def done(self) -> bool:
        """Has all of it been read, its trailers included?"""
        return self._step is _Step.DONE

    def take(self, data: bytes, pos: int) -> tuple[bytes | None, int]:
        """Read on in `data` from `pos`: a piece of the body, b"" at its end, None if more is needed; and
        where reading goes on.

        Raises RequestError.
        """
        while True:
            match self._step:
                case _Step.DATA:
                    piece = data[pos : pos + self._left]
                    if not piece:
                        return None, pos
                    self._left -= len(piece)
                    if not self._left:
                        self._step = _Step.DATA_END
                    return piece, pos + len(piece)
                case _Step.DATA_END:
                    end = data[pos : pos + 2]
                    if not b"\r\n".startswith(end):
                        raise Rule.CHUNK.error()
                    if len(end) < 2:
                        return None, pos
                    pos += 2
                    self._step = _Step.SIZE
                case _Step.SIZE:
                    line = _line(data, pos, MAX_CHUNK_LINE, Rule.CHUNK)
                    if line is None:
                        return None, pos
                    pos += len(line) + 2
                    self._begin_chunk(line)
                case _Step.TRAILERS:
                    line = _line(
                        data, pos, self._limits.header_bytes - self._trailers_size, Rule.TRAILERS_SIZE
                    )
                    if line is None:
                        return None, pos
                    pos += len(line) + 2
                    self._take_trailer(line)
                case _Step.DONE:
                    return b"", pos

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise Rule.CHUNK.error()
        self._left = int(match[1], 16)
        self._size += self._left
        if self._limits.body and self._size > self._limits.body:
            raise Rule.BODY_SIZE.error()
        self._step = _Step.DATA if self._left else _Step.TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._step = _Step.DONE
            return
        self._trailers += 1
        self._trailers_size += len(line) + 2
        if self._trailers > self._limits.header_count:
            raise Rule.TRAILERS_SIZE.error()
        if _TRAILER_LINE.fullmatch(line) is None:
            raise Rule.CHUNK.error()


def _line(data: bytes, pos: int, limit: int, too_long: Rule) -> bytes | None:
    """The line at `pos` without its CRLF, or None if its end has not arrived."""
    end = data.find(b"\n", pos)
    if (len(data) if end < 0 else end) - pos > limit + 1:
        raise too_long.error()
    if end < 0:
        return None
    if end == pos or data[end - 1] != 13:
        raise Rule.CHUNK.error()
    return data[pos : end - 1]


class SizedBody:
    """A body of as many bytes as Content-Length says, which is more than none."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def left(self) -> int:
        """Bytes that have not been read yet."""
        return self._left

    @property
    def done(self) -> bool:
        """Has all of it been read?"""
        return not self._left

    def take(self, data: bytes, pos: int) -> tuple[bytes | None, int]:
        """As `ChunkedBody.take`."""
        piece = data[pos : pos + self._left] if pos or len(data) > self._left else data
        if not piece:
            return None, pos
        self._left -= len(piece)
        return piece, pos + len(piece)
