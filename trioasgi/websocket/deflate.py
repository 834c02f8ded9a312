"""permessage-deflate (RFC 7692): what is agreed on, and the two streams of compressed data.

Inflating is bounded: never more than a message may have comes out of a piece, however much is in it, and
never more at once than one step may take.
"""

from __future__ import annotations

import re
import zlib
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from trioasgi.http.abnf import TOKEN
from trioasgi.websocket.frames import CloseCode, FrameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WINDOW_BITS: Final = 12
"""The window we ask for, either way, as a power of two: 4 KiB. zlib's full 32 KiB and more would be held for
each connection, and gain little on messages (RFC 7692, 7.1.2)."""

MEMORY_LEVEL: Final = 5
"""zlib's memLevel, for the same reason."""

_LEAST_BITS: Final = 9
"""zlib cannot write a raw stream with a window of 256 bytes."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""What ends each message and is left off (RFC 7692, 7.2.1)."""

STEP_IN: Final = 8192
STEP_OUT: Final = 64 * 1024
"""Bytes that one step of inflating takes, and that it makes, at the most; one of deflating takes as many as
the latter. zlib copies what it has not used.
"""

_INFLATED_BITS: Final = 14
_COMPRESSED_BITS: Final = 9
"""Bytes, as powers of two, that are as much work as a short message: inflated ones, and compressed ones, each
few of which may be a block with tables of its own.
"""

_LAST_BLOCKS: Final = 16
_LAST_BLOCK_BYTES: Final = 64
"""A message may have so many blocks that say they are the last, and one more for each so many of its bytes:
at each of them zlib has to begin anew. Compressors that make them end a write with one.
"""

MAX_OFFERS: Final = 100
"""Extensions of one client that are looked at. Browsers offer one or two."""

MAX_PARAMETERS: Final = 1000
"""Parameters of all of them behind which nothing more is read. permessage-deflate has four."""

_EXTENSION: Final = b"permessage-deflate"

_PARAMETER: Final = re.compile(
    rb"[ \t]*;[ \t]*(" + TOKEN + rb')(?:[ \t]*=[ \t]*(?:"([^"\\,;]*)"|(' + TOKEN + rb")))?"
)
_EMPTY: Final = re.compile(rb"[ \t,]*")
_NAME: Final = re.compile(TOKEN)
_END: Final = re.compile(rb"[ \t]*(?:,|$)")
_BITS: Final = re.compile(rb"8|9|1[0-5]")


class Deflate(msgspec.Struct, frozen=True):
    """What was agreed on: the windows, as powers of two, and whether each message begins with none."""

    server_bits: int = 15
    client_bits: int = 15
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    answers_client_bits: bool = False

    @property
    def response(self) -> bytes:
        """The value of Sec-WebSocket-Extensions in the answer."""
        parts = [_EXTENSION]
        if self.server_no_context_takeover:
            parts.append(b"server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append(b"client_no_context_takeover")
        parts.append(b"server_max_window_bits=%d" % self.server_bits)
        if self.answers_client_bits:
            parts.append(b"client_max_window_bits=%d" % self.client_bits)
        return b"; ".join(parts)


def negotiate(values: Iterable[bytes]) -> Deflate | None:
    """Take the first offer of permessage-deflate that can be kept to, from the values of
    Sec-WebSocket-Extensions; None where there is none.

    An offer that is malformed is declined (RFC 7692, 7.1), as is what follows something unreadable,
    `MAX_OFFERS` others, or `MAX_PARAMETERS` parameters. Empty elements count for nothing (RFC 9110, 5.6.1.2).
    """
    for name, parameters in islice(_read_offers(values), MAX_OFFERS):
        if name.lower() == _EXTENSION:
            agreed = _accept(parameters)
            if agreed is not None:
                return agreed
    return None


_Parameters = list[tuple[bytes, bytes | None]]


def _read_offers(values: Iterable[bytes]) -> Iterator[tuple[bytes, _Parameters]]:
    # Parameter by parameter: one pattern for them all would hold 300 bytes for each byte of a long offer.
    room = MAX_PARAMETERS
    for value in values:
        pos = _end_of_empty(value, 0)
        while pos < len(value):
            name = _NAME.match(value, pos)
            if name is None:
                return
            pos = name.end()
            parameters: _Parameters = []
            while (match := _PARAMETER.match(value, pos)) is not None:
                if not room:
                    return
                room -= 1
                parameters.append((match[1].lower(), match[2] if match[2] is not None else match[3]))
                pos = match.end()
            end = _END.match(value, pos)
            if end is None:
                return
            yield name[0], parameters
            pos = _end_of_empty(value, end.end())


def _end_of_empty(value: bytes, pos: int) -> int:
    match = _EMPTY.match(value, pos)
    assert match is not None, "it matches nothing at least"
    return match.end()


def _accept(parameters: _Parameters) -> Deflate | None:
    """RFC 7692, 7.1: None if a parameter is unknown, stands twice, or has a value that it may not have."""
    seen: dict[bytes, bytes | None] = {}
    for name, value in parameters:
        if name in seen:
            return None
        seen[name] = value
    server_bits = client_bits = 15
    for name, value in seen.items():
        match name:
            case b"server_no_context_takeover" | b"client_no_context_takeover" if value is None:
                pass
            case b"client_max_window_bits" if value is None:
                pass
            case b"client_max_window_bits" if value is not None and _BITS.fullmatch(value):
                client_bits = int(value)
            case b"server_max_window_bits" if value is not None and _BITS.fullmatch(value):
                server_bits = int(value)
            case _:
                return None
    if server_bits < _LEAST_BITS:
        return None
    answers = b"client_max_window_bits" in seen
    return Deflate(
        server_bits=min(server_bits, WINDOW_BITS),
        client_bits=min(client_bits, WINDOW_BITS) if answers else 15,
        server_no_context_takeover=b"server_no_context_takeover" in seen,
        client_no_context_takeover=b"client_no_context_takeover" in seen,
        answers_client_bits=answers,
    )


class Inflater:
    """Inflates the peer's messages, step by step. What zlib holds for it is made at the first message.

    ::

        inflate(piece)  →  go_on() while `pending`  →  inflate(piece) …

    `effort` says what the last step took, in short messages: a few bytes can be millions.
    """

    __slots__ = (
        "_at",
        "_bits",
        "_data",
        "_end",
        "_keeps_context",
        "_last_blocks",
        "_size",
        "_stream",
        "effort",
        "pending",
    )

    def __init__(self, agreed: Deflate) -> None:
        # Some compressors write a window of 512 bytes when they are asked for one of 256.
        self._bits = max(agreed.client_bits, _LEAST_BITS)
        self._keeps_context = not agreed.client_no_context_takeover
        self._stream: zlib._Decompress | None = None
        # Of the message that is being inflated: its blocks that said they were the last, and its bytes.
        self._last_blocks = 0
        self._size = 0
        # The piece of it that is being inflated, how much of that is done, and whether it is the last one.
        self._data = b""
        self._at = 0
        self._end = False
        self.pending = False
        self.effort = 0

    def inflate(self, data: bytes, end: bool, room: int) -> bytes:
        """Take a piece of a message, the last one if `end`, and inflate it as far as `go_on` does."""
        self._data = data + _TAIL if end else data
        self._at = 0
        self._end = end
        return self.go_on(room)

    def go_on(self, room: int) -> bytes:
        """Inflate as much as is for one step. If there may be more, `pending` is set.

        Raises FrameError: 1009 as soon as more than `room` bytes come out, 1007 for what is no such data.
        """
        data, at, stream = self._data, self._at, self._stream
        if stream is None:
            stream = self._stream = zlib.decompressobj(-self._bits)
        left = len(data) - at
        window = data if left <= STEP_IN and not at else data[at : at + STEP_IN]
        # One byte more than there may be tells whether there is more.
        most = STEP_OUT if room >= STEP_OUT else room + 1
        try:
            piece = stream.decompress(window, most)
        except zlib.error:
            raise FrameError(CloseCode.INVALID_DATA, "compressed data is malformed") from None
        size = len(piece)
        if size > room:
            raise FrameError(CloseCode.TOO_BIG, "the message is too big once inflated")
        if stream.eof:
            taken = self._end_stream(stream, at, len(window))
            self.pending = taken < left
        elif size < most:
            taken = len(window)
            self.pending = taken < left
        else:
            taken = len(window) - len(stream.unconsumed_tail)
            self.pending = True
        self.effort = (taken >> _COMPRESSED_BITS) + (size >> _INFLATED_BITS)
        if self.pending:
            self._at = at + taken
            self.effort += 1  # for the step itself: a block may be a byte, and say that it is the last
            return piece
        self._size += len(data)
        self._data = b""
        if self._end:
            self._last_blocks = self._size = 0
            if not self._keeps_context:
                self._stream = None
        return piece

    def _end_stream(self, stream: zlib._Decompress, at: int, size: int) -> int:
        """A block has said that it is the last one (RFC 7692, 7.2.3.4), in the `size` bytes behind `at`; what
        follows is a stream of its own. How many of those bytes are done.
        """
        self._stream = None
        taken = size - len(stream.unused_data)
        self._count_last_block(self._size + at + taken)
        left = len(self._data) - at - taken
        return taken + left if left == len(_TAIL) and self._data.endswith(_TAIL) else taken

    def _count_last_block(self, size: int) -> None:
        """A block has said that it is the last one, of the first `size` bytes of a message."""
        self._last_blocks += 1
        if self._last_blocks > _LAST_BLOCKS + size // _LAST_BLOCK_BYTES:
            raise FrameError(CloseCode.INVALID_DATA, "compressed data has too many last blocks")


class Deflater:
    """Deflates our messages. What zlib holds for it is made at the first one."""

    __slots__ = ("_bits", "_keeps_context", "_stream")

    def __init__(self, agreed: Deflate) -> None:
        self._bits = agreed.server_bits
        self._keeps_context = not agreed.server_no_context_takeover
        self._stream: zlib._Compress | None = None

    def deflate(self, data: bytes) -> bytes:
        """Deflate a whole message."""
        stream = self._stream or self._begin()
        return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def deflate_in_steps(self, data: bytes) -> Iterator[bytes]:
        """Deflate a whole message, piece by piece. Where not all of them are taken, the message must not be
        sent; the next one refers to nothing that was before it.
        """
        stream = self._stream or self._begin()
        self._stream = None
        view = memoryview(data)
        for start in range(0, len(view), STEP_OUT):
            yield stream.compress(view[start : start + STEP_OUT])
        yield stream.flush(zlib.Z_SYNC_FLUSH)[:-4]
        if self._keeps_context:
            self._stream = stream

    def _begin(self) -> zlib._Compress:
        stream = zlib.compressobj(wbits=-self._bits, memLevel=MEMORY_LEVEL)
        if self._keeps_context:
            self._stream = stream
        return stream
