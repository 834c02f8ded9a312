"""Finds the end of a request's body (RFC 9112, 6 and 7.1). All codecs need it."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import FIELD_LINE, QUOTED_STRING, TOKEN
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.patterns import compiled_later

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits

MAX_CHUNK_LINE: Final = 4096
"""Bytes of the longest first line of a chunk: its size and extensions. RFC 9112, 7.1.1 asks for a limit."""

MAX_CHUNKS: Final = 32
"""The most chunks in one piece. Between two pieces the caller can let other tasks run."""

_LINE_BITS: Final = 6
"""As a power of two: so many bytes of a line count as one chunk."""

_X: Final = (b"x", b"X")
"""What int() takes behind a zero. It takes signs, spaces and underscores too, which are not alphanumeric."""
_PLAIN_SIZE: Final = 18
"""Bytes of the longest line of a chunk without extensions."""

_CHUNK_EXT: Final = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (TOKEN, TOKEN, QUOTED_STRING)
_CHUNK_LINE: Final = compiled_later(rb"([0-9A-Fa-f]{1,16})(?:%b)*" % _CHUNK_EXT)
"""::

    chunk     = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
    chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )   (RFC 9112, 7.1 and 7.1.1)
"""

_TRAILER_LINE: Final = compiled_later(FIELD_LINE)


class _Step(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()
    DONE = auto()


_SIZE: Final = _Step.SIZE
_DATA: Final = _Step.DATA
_DATA_END: Final = _Step.DATA_END
_TRAILERS: Final = _Step.TRAILERS
_DONE: Final = _Step.DONE


class ChunkedBody:
    """Decodes the chunked coding. Trailers are checked, limited as header fields are, and dropped (RFC 9110,
    6.5.1).
    """

    __slots__ = ("_fault", "_left", "_limits", "_line", "_size", "_step", "_trailers", "_trailers_size")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._step = _SIZE
        self._left = 0
        self._size = 0
        self._trailers = 0
        self._trailers_size = 0
        self._line = bytearray()  # an incomplete line
        self._fault: RequestError | None = None

    @property
    def done(self) -> bool:
        """Has the whole body been read, with its trailers?"""
        return self._step is _DONE

    def take(self, data: bytes, pos: int) -> tuple[bytes | None, int]:
        """Read `data` from `pos` on. Return a piece of the body, and the position where reading goes on.

        The piece is b"" at the end of the body, and None if more bytes are needed. It joins the content of at
        most `MAX_CHUNKS` chunks, and of fewer if their lines are long. Raises RequestError, but only after
        the content before the fault has been returned.
        """
        if self._fault is not None:
            raise self._fault
        pieces: list[bytes] = []
        effort = 0
        while (effort < MAX_CHUNKS or not pieces) and self._step is not _DONE and pos < len(data):
            if self._step is _SIZE and not self._line:
                before = len(pieces)
                pos = self._take_plain(data, pos, pieces, MAX_CHUNKS - effort)
                if len(pieces) > before:
                    effort += len(pieces) - before
                    continue
            if self._step is _DATA:
                piece = data[pos : pos + self._left]
                pieces.append(piece)
                effort += 1
                pos += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._step = _DATA_END
                continue
            start = pos
            try:
                pos = self._take_line(data, pos)
                effort += pos - start >> _LINE_BITS
            except RequestError as error:
                if not pieces:
                    raise
                self._fault = error
                break
        if not pieces:
            return (b"" if self.done else None), pos
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), pos

    def _take_plain(self, data: bytes, pos: int, pieces: list[bytes], most: int) -> int:
        """Take whole chunks without extensions, at most so many, from `pos` on into `pieces`. Return the
        position where reading goes on.

        Almost all chunks are such. One by one, as below, a chunk of few bytes takes ten times as long.
        """
        limit = self._limits.body
        for _ in range(most):
            end = data.find(b"\r\n", pos, pos + _PLAIN_SIZE)
            if end <= pos:
                break
            digits = data[pos:end]
            if not digits.isalnum() or digits[1:2] in _X:
                break
            try:
                size = int(digits, 16)
            except ValueError:
                break
            stop = end + 2 + size
            total = self._size + size
            if not size or data[stop : stop + 2] != b"\r\n" or (limit and total > limit):
                break
            pieces.append(data[end + 2 : stop])
            self._size = total
            pos = stop + 2
        return pos

    def _take_line(self, data: bytes, pos: int) -> int:
        """Take the line at `pos`, or the part that has come. Return the position where reading goes on."""
        held = len(self._line)
        limit, too_long = self._line_limit()
        # The CR may have come without its LF.
        end = data.find(b"\n", pos, pos + limit + 2 - held)
        if end < 0:
            self._line += data[pos : pos + limit + 2 - held]
            if len(self._line) > limit + 1:
                raise RequestError(too_long)
            if self._step is _DATA_END and self._line != b"\r":
                raise RequestError(Rule.CHUNK)
            return len(data)
        line = data[pos:end]
        if held:
            line = bytes(self._line) + line
            self._line.clear()
        if line[-1:] != b"\r":
            raise RequestError(Rule.CHUNK)
        self._end_line(line[:-1])
        return end + 1

    def _line_limit(self) -> tuple[int, Rule]:
        """The most bytes that the line may have, and the rule that a longer line breaks."""
        if self._step is _DATA_END:
            return 0, Rule.CHUNK
        if self._step is _TRAILERS:
            return self._limits.header_bytes - self._trailers_size, Rule.TRAILERS_SIZE
        return MAX_CHUNK_LINE, Rule.CHUNK

    def _end_line(self, line: bytes) -> None:
        if self._step is _SIZE:
            self._begin_chunk(line)
        elif self._step is _DATA_END:
            self._step = _SIZE
        else:
            self._take_trailer(line)

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise RequestError(Rule.CHUNK)
        self._left = int(match[1], 16)
        self._size += self._left
        if self._limits.body and self._size > self._limits.body:
            raise RequestError(Rule.BODY_SIZE)
        self._step = _DATA if self._left else _TRAILERS

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._step = _DONE
            return
        self._trailers += 1
        self._trailers_size += len(line) + 2
        if self._trailers > self._limits.header_count:
            raise RequestError(Rule.TRAILERS_SIZE)
        if _TRAILER_LINE.fullmatch(line) is None:
            raise RequestError(Rule.CHUNK)


class SizedBody:
    """A body with a Content-Length of at least 1."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        """Bytes that have not been read yet."""
        self.done = False
        """Has the whole body been read?"""

    def take(self, data: bytes, pos: int) -> tuple[bytes | None, int]:
        """As `ChunkedBody.take`."""
        left = self.left
        piece = data[pos : pos + left] if pos or len(data) > left else data
        if not piece:
            return None, pos
        size = len(piece)
        self.left = left - size
        self.done = left == size
        return piece, pos + size
