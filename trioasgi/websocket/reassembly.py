"""Makes messages of frames, and reads control frames (RFC 6455, 5.4 to 5.6). Both codecs use it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from enum import Enum
from io import BytesIO
from typing import TYPE_CHECKING, Final

from trioasgi.websocket.frames import (
    COMPRESSED,
    CloseCode,
    FrameError,
    Opcode,
    decode_text,
    not_utf8,
    read_close,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from trioasgi.websocket.codec import FrameCodec
    from trioasgi.websocket.deflate import Deflater, Inflater
    from trioasgi.websocket.frames import Frame

_CONTINUATION: Final = int(Opcode.CONTINUATION)
_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)
_PING: Final = int(Opcode.PING)
_PONG: Final = int(Opcode.PONG)

_COMPRESSION_SLACK: Final = 1024
"""Incompressible data grows when it is compressed: at most by a 1024th and so many bytes (zlib's
deflateBound, rounded up). A compressed frame may be longer than the message by so much.
"""

FRAMES_AT_ONCE: Final = 256
"""`next_event` returns PAUSE after so many frames without an event."""

EFFORT_AT_ONCE: Final = 64
"""It also returns PAUSE once `MessageReader.effort` is so large."""

_WHOLE_BITS: Final = 14
"""As a power of two: joining so many bytes of pieces counts as one short message."""

DEFLATE_FROM: Final = 32
"""Bytes. A shorter message is not compressed, as that would save little."""

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Control:
    """A control frame."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ping(Control):
    """A ping, to be answered with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong(Control):
    """The answer to a ping, or an unsolicited one."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close(Control):
    """The peer closes. `code` is 1005 if its Close has none."""

    code: int
    reason: str


class Pause(Control):
    """Not a frame: the caller should let other tasks run and then go on. Much was read without an event."""

    __slots__ = ()


PAUSE: Final = Pause()

Event = str | bytes | Control
"""A text message, a binary message, a control frame, or PAUSE."""


class _Next(Enum):
    """What `next_event` does next."""

    FRAME = "the next frame"
    INFLATE = "what is left to inflate of the last one"
    WHOLE = "the message whose pieces are all here"


_FRAME: Final = _Next.FRAME
_INFLATE: Final = _Next.INFLATE
_WHOLE: Final = _Next.WHOLE


class MessageReader:
    """Joins fragments to messages of at most `max_size` bytes, counted after inflation.

    ::

        feed(bytes)  →  next_event() until None  →  feed(bytes) …

    While `is_idle`, there is no event without more bytes, and `read_message(bytes)` may be tried before
    `feed(bytes)`.
    """

    __slots__ = (
        "_codec",
        "_ends",
        "_frames",
        "_inflater",
        "_inflating",
        "_max_size",
        "_message",
        "_next",
        "_room",
        "begun",
        "effort",
        "fed",
        "is_idle",
        "read_message",
    )

    def __init__(self, codec: FrameCodec, max_size: int, inflater: Inflater | None) -> None:
        self._codec = codec
        self.read_message = codec.read_message
        self.is_idle = codec.is_empty
        """Has everything been read, and is no message incomplete?"""
        self._max_size = max_size
        self._inflater = inflater
        self._room = max_size
        codec.room = self._bound(max_size)
        # The incomplete message, if there is one; whether it is compressed; and whether the frame that is
        # being inflated is its last.
        self._message: _Text | _Binary | None = None
        self._inflating = False
        self._ends = False
        self._next = _FRAME
        self._frames = 0  # frames without an event since the last PAUSE
        self.effort = 0
        """The work since this was last set to 0, counted in short messages."""
        self.begun = 0
        """How many messages have come in more than one piece, the last one not always whole."""
        self.fed = 0
        """How often `feed` was called."""

    @property
    def is_within_message(self) -> bool:
        """Has a part of a message come, and not all of it?"""
        return self._message is not None

    def feed(self, data: bytes) -> None:
        """Take bytes off the wire."""
        self.is_idle = False
        self.fed += 1
        self._codec.feed(data)

    def next_event(self) -> Event | None:
        """The next event, or None if more bytes are needed.

        PAUSE comes after `FRAMES_AT_ONCE` frames without an event, because a client can send empty fragments
        at little cost. It comes earlier if the frames took much inflating, and before a long message is
        joined. Raises FrameError; then nothing more can be read.
        """
        codec = self._codec
        while True:
            if self._next is _FRAME:
                frame = codec.next_frame()
                if frame is None:
                    self.is_idle = self._message is None and codec.is_empty
                    return None
                opcode, payload, end, compressed = frame
                if opcode > _BINARY:
                    return _read_control(opcode, payload)
                if end and not compressed and self._message is None and len(payload) <= self._room:
                    # The usual case: a message of one frame, all of which has come.
                    if opcode == _TEXT:
                        return decode_text(payload)
                    if opcode == _BINARY:
                        return payload
                message = self._take(frame)
            else:
                message = self._inflate_on() if self._next is _INFLATE else self._finish_long()
            if message is not None:
                return message
            self._frames += 1
            if self._frames >= FRAMES_AT_ONCE or self.effort >= EFFORT_AT_ONCE:
                self._frames = self.effort = 0
                return PAUSE

    def _take(self, frame: Frame) -> str | bytes | None:
        """Take a piece of a message. Return the message if that was its last piece."""
        opcode, payload, end, compressed = frame
        message = self._message
        if opcode == _CONTINUATION:
            if message is None:
                raise FrameError(CloseCode.PROTOCOL_ERROR, "there is no message to continue")
        elif message is not None:
            raise FrameError(CloseCode.PROTOCOL_ERROR, "a message begins within another")
        else:
            message = self._message = _Text() if opcode == _TEXT else _Binary()
            self.begun += 1
            self._inflating = compressed
        inflater = self._inflater
        if self._inflating and inflater is not None:
            payload = inflater.inflate(payload, end, self._room)
            self.effort += inflater.effort
            if inflater.pending:
                self._next, self._ends, end = _INFLATE, end, False
                self.effort += EFFORT_AT_ONCE  # PAUSE before each further step
        return self._add(message, payload, end)

    def _inflate_on(self) -> str | bytes | None:
        """Inflate the next part of a frame. Return the message if that was its last part."""
        inflater, message = self._inflater, self._message
        assert inflater is not None
        assert message is not None
        payload = inflater.go_on(self._room)
        self.effort += inflater.effort
        end = False
        if not inflater.pending:
            self._next, end = _FRAME, self._ends
        return self._add(message, payload, end)

    def _add(self, message: _Text | _Binary, payload: bytes, end: bool) -> str | bytes | None:
        self._room -= len(payload)
        if self._room < 0:
            raise FrameError(CloseCode.TOO_BIG, "the message is too big")
        if payload or end:
            message.add(payload, end)
        if not end:
            self._codec.room = self._bound(self._room)
            return None
        self.effort = effort = self.effort + (self._max_size - self._room >> _WHOLE_BITS)
        if effort < EFFORT_AT_ONCE:
            return self._finish(message)
        self._next = _WHOLE
        return None

    def _finish_long(self) -> str | bytes:
        """Join a long message. That is a long step too, so its bytes count once more."""
        message = self._message
        assert message is not None
        self._next = _FRAME
        self.effort += self._max_size - self._room >> _WHOLE_BITS
        return self._finish(message)

    def _finish(self, message: _Text | _Binary) -> str | bytes:
        self._message = None
        self._room = self._max_size
        self._codec.room = self._bound(self._max_size)
        return message.whole()

    def _bound(self, room: int) -> int:
        """The most bytes of the next frame, if the message may still have `room` bytes."""
        return room if self._inflater is None else room + room // 1024 + _COMPRESSION_SLACK


class MessageWriter:
    """Compresses messages. Each becomes one frame."""

    __slots__ = ("_deflater",)

    def __init__(self, deflater: Deflater) -> None:
        self._deflater = deflater

    def encode(self, message: str | bytes) -> tuple[int, bytes]:
        """The opcode and the payload of a message's frame; COMPRESSED is in the opcode if it is. Raises
        UnicodeEncodeError for lone surrogates.
        """
        kind, data = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
        if len(data) < DEFLATE_FROM:
            return kind, data
        return kind | COMPRESSED, self._deflater.deflate(data)

    def encode_in_steps(self, message: str | bytes) -> Generator[None, None, tuple[int, bytes]]:
        """As `encode`, for a long message. The caller may let other tasks run at each yield."""
        kind, data = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
        pieces = []
        for piece in self._deflater.deflate_in_steps(data):
            pieces.append(piece)
            yield
        return kind | COMPRESSED, b"".join(pieces)


class _Text:
    """A text message in pieces. Each is decoded when it comes, so that invalid UTF-8 is found early.

    Only the bytes are kept, in one block of memory. Decoded pieces would be many small blocks, and could take
    four times as much.
    """

    __slots__ = ("_data", "_decoder")

    def __init__(self) -> None:
        self._decoder = _new_decoder()
        self._data = bytearray()

    def add(self, payload: bytes, end: bool) -> None:
        try:
            self._decoder.decode(payload, end)
        except UnicodeDecodeError:
            raise not_utf8() from None
        self._data += payload

    def whole(self) -> str:
        return self._data.decode()


class _Binary:
    """A binary message in pieces."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = BytesIO()  # getvalue() need not copy, as bytes() of a bytearray would

    def add(self, payload: bytes, _end: bool) -> None:
        self._data.write(payload)

    def whole(self) -> bytes:
        return self._data.getvalue()


def _read_control(opcode: int, payload: bytes) -> Ping | Pong | Close:
    if opcode == _PING:
        return Ping(payload)
    if opcode == _PONG:
        return Pong(payload)
    return Close(*read_close(payload))
