"""The fast codec: frames are read here, and unmasked in C by the websockets library."""

from __future__ import annotations

from typing import Final

from trioasgi.websocket.codec import Codec
from trioasgi.websocket.frames import MAX_CONTROL, CloseCode, Frame, FrameError, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension: slower, and the same
    from websockets.utils import apply_mask

_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_RSV1: Final = 0x40
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F

_OPCODES: Final = frozenset(Opcode)
_FIRST_CONTROL: Final = Opcode.CLOSE
_CONTINUATION: Final = int(Opcode.CONTINUATION)


class WebsocketsCodec(Codec):
    """Reads frames out of the bytes of one read at a time.

    What is left of a read is kept only if it is less than a frame's header, a control frame, or less than a
    data frame of whose payload nothing has come: a large frame is handed on piece by piece.
    """

    __slots__ = ("_data", "_deflate", "_end", "_left", "_mask", "_pos", "room")

    name = "websockets"

    def __init__(self, *, deflate: bool, room: int) -> None:
        self.room = room
        self._deflate = deflate
        self._data = b""
        self._pos = 0
        # Of the data frame that is being read: bytes still to come, its mask turned to where we are, and
        # whether the message ends with it.
        self._left = 0
        self._mask = b""
        self._end = True

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
            return None
        first, second = data[pos], data[pos + 1]
        length = second & _LENGTH
        opcode = first & _OPCODE
        if first & _RESERVED or opcode not in _OPCODES or second < _MASKED or opcode >= _FIRST_CONTROL:
            self._check(first, second)
        pos += 2
        if length > MAX_CONTROL:
            size = 2 if length == 126 else 8
            if have - pos < size:
                return None
            length = _read_length(data, pos, size)
            pos += size
        if length > self.room and opcode < _FIRST_CONTROL:
            raise FrameError(CloseCode.TOO_BIG, "the message is too big")
        start = pos + 4
        if have < start:
            return None
        end = start + length
        final = first >= _FINAL
        compressed = first & _RSV1 != 0
        if end <= have:
            self._pos = end
            return Frame(opcode, apply_mask(data[start:end], data[pos:start]), final, compressed)
        if opcode >= _FIRST_CONTROL:
            return None
        self._pos = start
        self._left = length
        self._mask = data[pos:start]
        self._end = final
        return Frame(opcode, b"" if have == start else self._take(), False, compressed)

    def _next_piece(self) -> Frame | None:
        if self._pos == len(self._data):
            return None
        piece = self._take()
        return Frame(_CONTINUATION, piece, self._end and not self._left, False)

    def _take(self) -> bytes:
        """What is there of the payload, which is more than nothing."""
        piece = self._data[self._pos : self._pos + self._left]
        mask = self._mask
        self._pos += len(piece)
        self._left -= len(piece)
        turn = len(piece) % 4
        self._mask = mask[turn:] + mask[:turn]
        return apply_mask(piece, mask)

    def _check(self, first: int, second: int) -> None:
        """Raise FrameError for what may not stand in a frame's first two bytes."""
        opcode = first & _OPCODE
        if opcode not in _OPCODES:
            raise FrameError(CloseCode.PROTOCOL_ERROR, f"unknown opcode {opcode:#x}")
        control = opcode >= _FIRST_CONTROL
        reserved = first & _RESERVED
        # RFC 7692, 6: RSV1 tells of a compressed message, in its first frame.
        if reserved and (reserved != _RSV1 or not self._deflate or control or opcode == _CONTINUATION):
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a reserved bit is set")
        if second < _MASKED:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "the frame is not masked")
        if control and first < _FINAL:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame is fragmented")
        if control and second & _LENGTH > MAX_CONTROL:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a control frame is too long")


def _read_length(data: bytes, pos: int, size: int) -> int:
    """RFC 6455, 5.2: the extended payload length, in its shortest form, its highest bit 0."""
    length = int.from_bytes(data[pos : pos + size], "big")
    if length < (126 if size == 2 else 65536) or length >= 1 << 63:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "the length of a frame is not in its shortest form")
    return length
