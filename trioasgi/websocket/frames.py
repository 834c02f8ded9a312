"""The frames of RFC 6455, 5: their opcodes, how a server writes them, and what a Close may contain.

A server does not mask its frames (5.1). So both codecs write alike: a header of a few bytes, then the
payload.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final


class Opcode(IntEnum):
    """RFC 6455, 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(IntEnum):
    """The codes that this server itself sends or reports (RFC 6455, 7.4.1, and IANA's registry)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    """Never sent: the peer's Close had no code."""
    ABNORMAL = 1006
    """Never sent: the connection ended without a Close."""
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012


Frame = tuple[int, bytes, bool, bool]
"""A frame, or a piece of one whose payload has not all arrived: opcode, payload, end, compressed.

The pieces of a data frame after its first one have the opcode CONTINUATION, as the frames of a fragmented
message; `end` says that the message ends here. Control frames come whole. `compressed` is the bit RSV1 of a
message's first frame (RFC 7692, 6).

A plain tuple, because there is one for each message, and a NamedTuple would be made by a call.
"""


class FrameError(Exception):
    """The peer has broken a rule. The connection must be failed with `code` (RFC 6455, 7.1.7)."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


MAX_CONTROL: Final = 125
"""Bytes of a control frame's payload (RFC 6455, 5.5)."""

MAX_REASON: Final = MAX_CONTROL - 2
"""Bytes of a Close's reason."""

COMPRESSED: Final = 0x40
"""RSV1, which the first frame of a compressed message has set (RFC 7692, 6)."""

_FINAL: Final = 0x80

_LENGTH_16: Final = struct.Struct("!BBH")
_LENGTH_64: Final = struct.Struct("!BBQ")

SHORT_HEADERS: Final = {
    kind: tuple(bytes((_FINAL | kind, length)) for length in range(126))
    for kind in (opcode | bits for opcode in Opcode for bits in (0, COMPRESSED))
}
"""The headers of final frames of up to 125 bytes."""


def frame_header(kind: int, length: int) -> bytes:
    """The header of an unmasked frame that is a whole message, with a payload of `length` bytes.

    `kind` is its opcode, with COMPRESSED in it if it is compressed.
    """
    if length < 126:
        return SHORT_HEADERS[kind][length]
    if length < 65536:
        return _LENGTH_16.pack(_FINAL | kind, 126, length)
    return _LENGTH_64.pack(_FINAL | kind, 127, length)


def encode_control(opcode: Opcode, payload: bytes = b"") -> bytes:
    """A Ping, Pong or Close with up to 125 bytes of payload."""
    return SHORT_HEADERS[opcode][len(payload)] + payload


def encode_close(code: int, reason: str = "") -> bytes:
    """A Close. For 1005 it has no code. A reason that is too long is cut between two characters."""
    if code == CloseCode.NO_STATUS:
        return encode_control(Opcode.CLOSE)
    text = reason.encode("utf-8", "replace")
    if len(text) > MAX_REASON:
        text = text[:MAX_REASON].decode("utf-8", "ignore").encode("utf-8")
    return encode_control(Opcode.CLOSE, code.to_bytes(2, "big") + text)


def decode_text(payload: bytes) -> str:
    """The text of a whole message (RFC 6455, 8.1). Raises FrameError."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise not_utf8() from None


def not_utf8() -> FrameError:
    """What a text that is not UTF-8 fails with."""
    return FrameError(CloseCode.INVALID_DATA, "a text message is not UTF-8")


def is_sendable(code: int) -> bool:
    """May `code` stand in a Close? (RFC 6455, 7.4; 1012 to 1014 are in IANA's registry.)"""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def read_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a received Close; the code is 1005 if it has none. Raises FrameError."""
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise FrameError(CloseCode.PROTOCOL_ERROR, "half a close code")
    code = int.from_bytes(payload[:2], "big")
    if not is_sendable(code):
        raise FrameError(CloseCode.PROTOCOL_ERROR, f"close code {code} may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(CloseCode.INVALID_DATA, "the reason of a close is not UTF-8") from None
