"""The reference codec, by wsproto, which is always installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, ParseFailed, RsvBits
from wsproto.frame_protocol import Opcode as WsprotoOpcode

from trioasgi.websocket.codec import FrameCodec
from trioasgi.websocket.frames import CloseCode, FrameError

if TYPE_CHECKING:
    from wsproto.frame_protocol import FrameProtocol

    from trioasgi.websocket.frames import Frame

_NO_BITS = RsvBits(False, False, False)
_RSV1 = RsvBits(True, False, False)


class WsprotoCodec(FrameCodec):
    """Reads frames with wsproto's decoder. An extension of ours checks each header first."""

    __slots__ = ("_decoder", "_headers", "room")

    name = "wsproto"

    def __init__(self, *, deflate: bool, room: int) -> None:
        self.room = room
        self._headers = _Headers(deflate=deflate, room=room)
        self._decoder = FrameDecoder(client=False, extensions=[self._headers])

    def feed(self, data: bytes) -> None:
        self._decoder.receive_bytes(data)

    def next_frame(self) -> Frame | None:
        # Not a property: once compiled, `codec.room = ...` sets the attribute of the base class, whatever a
        # subclass makes of it.
        self._headers.room = self.room
        try:
            frame = self._decoder.process_buffer()
        except ParseFailed as exc:
            raise _translate(exc) from exc
        if frame is None:
            return None
        payload = frame.payload
        assert isinstance(payload, bytes)
        end = frame.frame_finished and frame.message_finished
        return int(frame.opcode), payload, end, self._headers.take_compressed()


def _translate(exc: ParseFailed) -> FrameError:
    if exc.code is CloseReason.MESSAGE_TOO_BIG:
        return FrameError(CloseCode.TOO_BIG, "the message is too big")
    return FrameError(CloseCode.PROTOCOL_ERROR, str(exc))


class _Headers(Extension):
    """Checks a frame's length by its header, and remembers RSV1. It does not change payloads.

    It has `room` itself. If it asked its codec, the two would refer to each other, and stay until the next
    garbage collection.
    """

    name = "headers"

    def __init__(self, *, deflate: bool, room: int) -> None:
        self.room = room
        self._deflate = deflate
        self._compressed = False

    def take_compressed(self) -> bool:
        """Was RSV1 set in the last header? To be called once for each header."""
        compressed, self._compressed = self._compressed, False
        return compressed

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - wsproto's signature
        opcode: WsprotoOpcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """Return which reserved bits may be set, or the reason to refuse the frame.

        wsproto calls this again for the same header if the mask has not come yet.
        """
        if opcode.iscontrol():
            return _NO_BITS
        if payload_length > self.room:
            return CloseReason.MESSAGE_TOO_BIG
        if opcode is WsprotoOpcode.CONTINUATION or not self._deflate:
            return _NO_BITS
        self._compressed = rsv.rsv1
        return _RSV1
