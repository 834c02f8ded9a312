"""The fast codec: it reads the frames itself, and the websockets library unmasks them in C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from trioasgi.websocket.codec import FrameCodec
from trioasgi.websocket.frames import MAX_CONTROL, CloseCode, FrameError, Opcode, decode_text

if TYPE_CHECKING:
    from trioasgi.websocket.frames import Frame

try:
    from websockets.speedups import apply_mask
except ImportError:  # websockets was built without its C extension: slower, same result
    from websockets.utils import apply_mask

_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_RSV1: Final = 0x40
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F

_WHOLE_TEXT: Final = _FINAL | int(Opcode.TEXT)
_WHOLE_BINARY: Final = _FINAL | int(Opcode.BINARY)
"""The first byte of a frame that is a whole message, not compressed."""

_SHORTEST: Final = 8
"""Bytes of the shortest frame that `read_message` reads. All bytes that it looks at are there."""

_COPY_UP_TO: Final = 8 * 1024
"""Bytes. The unmasking of a longer payload reads a view of it, which is cheaper than a copy."""

_OPCODES: Final = frozenset(Opcode)
_FIRST_CONTROL: Final = int(Opcode.CLOSE)
_CONTINUATION: Final = int(Opcode.CONTINUATION)


def _find_fault(first: int, *, deflate: bool) -> str | None:
    """What is wrong with a frame's first byte."""
    opcode = first & _OPCODE
    if opcode not in _OPCODES:
        return f"unknown opcode {opcode:#x}"
    control = opcode >= _FIRST_CONTROL
    reserved = first & _RESERVED
    # RFC 7692, 6: RSV1 marks a compressed message, in its first frame only.
    if reserved and (reserved != _RSV1 or not deflate or control or opcode == _CONTINUATION):
        return "a reserved bit is set"
    if control and first < _FINAL:
        return "a control frame is fragmented"
    return None


def _read_first_byte(first: int, *, deflate: bool) -> tuple[int, bool, bool] | None:
    """A frame's opcode, whether it is final, and whether it is compressed; None if there is a fault."""
    if _find_fault(first, deflate=deflate):
        return None
    return first & _OPCODE, first >= _FINAL, first & _RSV1 != 0


_FIRST_BYTES: Final = {
    deflate: tuple(_read_first_byte(first, deflate=deflate) for first in range(256))
    for deflate in (False, True)
}
"""The meaning of each byte that a frame may begin with, without and with compression."""


class WebsocketsCodec(FrameCodec):
    """Reads frames out of the bytes of one read at a time.

    A large data frame is handed on piece by piece. So little is kept from one read to the next: an incomplete
    header, or an incomplete control frame.
    """

    __slots__ = ("_data", "_deflate", "_end", "_first_bytes", "_left", "_longest", "_mask", "_pos", "room")

    name = "websockets"

    def __init__(self, *, deflate: bool, room: int) -> None:
        self.room = room
        self._longest = 6 + room
        self._deflate = deflate
        self._first_bytes = _FIRST_BYTES[deflate]
        self._data = b""
        self._pos = 0
        # Of the data frame that is being read: the bytes still to come, its mask rotated to the current
        # position, and whether the message ends with it.
        self._left = 0
        self._mask = b""
        self._end = True

    def read_message(self, data: bytes) -> str | bytes | None:
        # As `next_frame`, for fewer cases. The length that the header states must be that of the rest.
        have = len(data)
        if have < _SHORTEST or have > self._longest:
            return None
        length = data[1] - _MASKED
        start = 6
        whole: bytes | memoryview = data
        if length > MAX_CONTROL:
            if length == 127:
                return None
            length = data[2] << 8 | data[3]
            if length <= MAX_CONTROL:
                return None
            start = 8
            if length > _COPY_UP_TO:
                whole = memoryview(data)
        if length != have - start:
            return None
        first = data[0]
        if first == _WHOLE_BINARY:
            return apply_mask(whole[start:], data[start - 4 : start])
        if first == _WHOLE_TEXT:
            return decode_text(apply_mask(whole[start:], data[start - 4 : start]))
        return None

    @property
    def is_empty(self) -> bool:
        return not self._left and self._pos == len(self._data)

    def feed(self, data: bytes) -> None:
        if self._pos < len(self._data):
            self._data = self._data[self._pos :] + data
        else:
            self._data = data
        self._pos = 0

    def next_frame(self) -> Frame | None:
        if self._left:
            return self._next_piece()
        data, pos = self._data, self._pos
        have = len(data)
        if have - pos < 2:
            # Drop consumed bytes: the next wait may be long, and another connection can reuse their memory.
            self._data, self._pos = data[pos:], 0
            return None
        kind = self._first_bytes[data[pos]]
        length = data[pos + 1] - _MASKED
        if kind is None or length < 0:
            self._refuse(data[pos])
        opcode, final, compressed = kind
        pos += 2
        if length > MAX_CONTROL:
            if opcode >= _FIRST_CONTROL:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame is too long")
            size = 2 if length == 126 else 8
            if have - pos < size:
                self._keep_rest()
                return None
            length = _read_length(data, pos, size)
            pos += size
        if length > self.room and opcode < _FIRST_CONTROL:
            raise FrameError(CloseCode.TOO_BIG, "the message is too big")
        start = pos + 4
        end = start + length
        if end <= have:
            self._pos = end
            return opcode, apply_mask(data[start:end], data[pos:start]), final, compressed
        if have < start or opcode >= _FIRST_CONTROL:
            self._keep_rest()
            return None
        self._pos = start
        self._left = length
        self._mask = data[pos:start]
        self._end = final
        return opcode, b"" if have == start else self._take(), False, compressed

    def _keep_rest(self) -> None:
        """Keep the beginning of a frame, and nothing of what was before it: as in next_frame."""
        self._data, self._pos = self._data[self._pos :], 0

    def _next_piece(self) -> Frame | None:
        if self._pos == len(self._data):
            self._data, self._pos = b"", 0  # as in next_frame
            return None
        piece = self._take()
        return _CONTINUATION, piece, self._end and not self._left, False

    def _take(self) -> bytes:
        """The part of the payload that has come; at least one byte."""
        piece = self._data[self._pos : self._pos + self._left]
        mask = self._mask
        self._pos += len(piece)
        self._left -= len(piece)
        turn = len(piece) % 4
        self._mask = mask[turn:] + mask[:turn]
        return apply_mask(piece, mask)

    def _refuse(self, first: int) -> NoReturn:
        fault = _find_fault(first, deflate=self._deflate)
        raise FrameError(CloseCode.PROTOCOL_ERROR, fault or "the frame is not masked")


def _read_length(data: bytes, pos: int, size: int) -> int:
    """RFC 6455, 5.2: the extended payload length, in its shortest form, its highest bit 0."""
    length = int.from_bytes(data[pos : pos + size], "big")
    if length < (126 if size == 2 else 65536) or length >= 1 << 63:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "the length of a frame is not in its shortest form")
    return length
