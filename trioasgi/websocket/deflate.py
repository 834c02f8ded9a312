"""permessage-deflate (RFC 7692): the negotiation, and the two streams of compressed data.

A few compressed bytes can become millions. So inflating has two bounds: it stops as soon as the output is
longer than a message may be, and one step makes at most `STEP_OUT` bytes.
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
"""The window that we ask for in both directions, as a power of two: 4 KiB. The largest is 32 KiB. zlib keeps
a window for each connection and direction (RFC 7692, 7.1.2), and short messages gain little by a larger one.
"""

MEMORY_LEVEL: Final = 5
"""zlib's memLevel, also low to save memory."""

_LEAST_BITS: Final = 9
"""zlib cannot write a raw stream with a smaller window than 512 bytes."""

_TAIL: Final = b"\x00\x00\xff\xff"
"""The end of each compressed message, which is not sent (RFC 7692, 7.2.1)."""

STEP_IN: Final = 8192
STEP_OUT: Final = 64 * 1024
"""A step of inflating takes at most `STEP_IN` bytes and makes at most `STEP_OUT`. A step of deflating takes
at most `STEP_OUT` bytes. zlib copies the input that it has not used, so larger steps would copy more.
"""

_INFLATED_BITS: Final = 14
_COMPRESSED_BITS: Final = 9
"""As powers of two: so many inflated bytes, or so many compressed bytes, count as one short message.
Compressed bytes count for more, because a block of few bytes may bring its own code tables.
"""

_LAST_BLOCKS: Final = 16
_LAST_BLOCK_BYTES: Final = 64
"""A message may have `_LAST_BLOCKS` final blocks (BFINAL, RFC 7692, 7.2.3.4), and one more for each
`_LAST_BLOCK_BYTES` of its bytes. zlib starts a new stream after each. Honest compressors write at most one
for each write.
"""

MAX_OFFERS: Final = 100
"""So many offers of one client are read; the rest is ignored. Browsers offer one or two."""

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
    """The parameters that were agreed on (RFC 7692, 7.1). The windows are powers of two."""

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
    """Accept the first offer of permessage-deflate that we can fulfil; None if there is none.

    `values` are those of Sec-WebSocket-Extensions. A malformed offer is declined (RFC 7692, 7.1). What
    follows something unreadable, `MAX_OFFERS` other offers or `MAX_PARAMETERS` parameters, is ignored. Empty
    elements are skipped (RFC 9110, 5.6.1.2).
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
    """RFC 7692, 7.1: None if a parameter is unknown, stands twice, or has an invalid value."""
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
    """Inflates the peer's messages, step by step. The zlib stream is made at the first message.

    ::

        inflate(piece)  →  go_on() while `pending`  →  inflate(piece) …

    `effort` is the work of the last step, counted in short messages.
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
        # Asked for a window of 256 bytes, some compressors use one of 512.
        self._bits = max(agreed.client_bits, _LEAST_BITS)
        self._keeps_context = not agreed.client_no_context_takeover
        self._stream: zlib._Decompress | None = None
        # The final blocks and the bytes of the message so far.
        self._last_blocks = 0
        self._size = 0
        # The piece that is being inflated, how many bytes of it are done, and whether the message ends with
        # it.
        self._data = b""
        self._at = 0
        self._end = False
        self.pending = False
        self.effort = 0

    def inflate(self, data: bytes, end: bool, room: int) -> bytes:
        """Begin with a piece of a message, the last one if `end`, and do one step as `go_on` does."""
        self._data = data + _TAIL if end else data
        self._at = 0
        self._end = end
        return self.go_on(room)

    def go_on(self, room: int) -> bytes:
        """Do one step of inflating. `pending` says whether there may be more to do.

        Raises FrameError: 1009 as soon as more than `room` bytes come out, 1007 for malformed data.
        """
        data, at, stream = self._data, self._at, self._stream
        if stream is None:
            stream = self._stream = zlib.decompressobj(-self._bits)
        left = len(data) - at
        window = data if left <= STEP_IN and not at else data[at : at + STEP_IN]
        # One byte more than allowed shows that the message is too big.
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
            self.effort += 1  # for the step itself: a final block may be a single byte
            return piece
        self._size += len(data)
        self._data = b""
        if self._end:
            self._last_blocks = self._size = 0
            if not self._keeps_context:
                self._stream = None
        return piece

    def _end_stream(self, stream: zlib._Decompress, at: int, size: int) -> int:
        """Note that a final block (RFC 7692, 7.2.3.4) ends within the `size` bytes behind `at`. What follows
        it is a new stream. Return how many of those bytes are done.
        """
        self._stream = None
        taken = size - len(stream.unused_data)
        self._count_last_block(self._size + at + taken)
        left = len(self._data) - at - taken
        return taken + left if left == len(_TAIL) and self._data.endswith(_TAIL) else taken

    def _count_last_block(self, size: int) -> None:
        """Count a final block, which ends with the first `size` bytes of the message. Raises FrameError."""
        self._last_blocks += 1
        if self._last_blocks > _LAST_BLOCKS + size // _LAST_BLOCK_BYTES:
            raise FrameError(CloseCode.INVALID_DATA, "compressed data has too many last blocks")


class Deflater:
    """Deflates our messages. The zlib stream is made at the first one."""

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
        """Deflate a whole message, piece by piece. If the caller stops before the last piece, it must not
        send the message; the next message then begins a new stream.
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
