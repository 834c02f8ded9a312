"""The bytes of a response: status lines, the head, the framing of its body (RFC 9112, 4, 6 and 7)."""

from __future__ import annotations

import time
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trioasgi.http.fields import DefaultFields
    from trioasgi.http.request import Header


class Framing(Enum):
    """How the client finds the end of the response's body (RFC 9112, 6.3)."""

    NONE = "there is no body: HEAD, 204, 304"
    LENGTH = "Content-Length"
    CHUNKED = "the chunked coding"
    CLOSE = "the connection's end"
    LOST = "it cannot be told any more: a part of the body was begun, and given up within"


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}

STATUS_LINES: Final = [
    # An empty phrase is legal, but some load generators count it as a failure.
    f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\n".encode()
    for status in range(1000)
]
"""The status line of each status code, with its standard phrase."""

CONTINUE: Final = STATUS_LINES[100] + b"\r\n"
CONNECTION_CLOSE: Final = b"connection: close\r\n"
CONNECTION_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
UPGRADE_WEBSOCKET: Final = b"upgrade: websocket\r\nconnection: upgrade\r\n"
TRANSFER_ENCODING_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
NO_CONTENT_LENGTH: Final = b"content-length: 0\r\n"


# Fields about framing or about the connection: only the server sends them.
# `keep-alive`, `proxy-connection` and `upgrade` are hop-by-hop fields as well (RFC 9110, 7.6.1).
_OURS: Final = frozenset(
    {b"connection", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"}
)

_MAX_KNOWN_HEADS: Final = 256
_MAX_KNOWN_BYTES: Final = 2048  # of one head


class HeadEncoder:
    """Encodes status lines and header fields, with the default fields that the application does not send."""

    __slots__ = ("_defaults", "_fields", "_heads", "_lines", "_second", "_second_end", "_special")

    def __init__(self, fields: DefaultFields) -> None:
        self._fields = fields
        self._special = _OURS | fields.names
        self._second = self._second_end = 0.0  # the beginning and the end of a second since the epoch
        self._defaults: tuple[Header, ...] = ()  # of this second
        self._lines = b""  # the same, encoded
        self._heads: dict[tuple[int, Sequence[Header]], tuple[bytes, bool]] = {}

    def encode(self, status: int, headers: Sequence[Header] = ()) -> tuple[bytes, bool]:
        """Encode the head of a response, without the fields of `_OURS`, Content-Length and the empty line.
        Also return whether `headers` ask to close the connection.

        Fields that are given as a tuple are likely to come again: their head is reused within the same
        second.
        """
        now = time.time()
        heads = self._heads
        if not self._second <= now < self._second_end:  # also earlier: a clock may be set back
            heads.clear()
            self._second = now // 1
            self._second_end = self._second + 1
            self._defaults = self._fields.at(now)
            self._lines = _encode_fields(self._defaults)
        if type(headers) is not tuple:
            return self._encode(status, headers)
        head = heads.get((status, headers))
        if head is None:
            head = self._encode(status, headers)
            if len(head[0]) <= _MAX_KNOWN_BYTES:
                if len(heads) == _MAX_KNOWN_HEADS:
                    heads.clear()
                heads[status, headers] = head
        return head

    def _encode(self, status: int, headers: Sequence[Header]) -> tuple[bytes, bool]:
        special = self._special
        lines = [STATUS_LINES[status], self._lines]
        for name, value in headers:
            if name in special:
                return self._encode_special(status, headers)
            lines += (name, b": ", value, b"\r\n")
        return b"".join(lines), False

    def _encode_special(self, status: int, headers: Sequence[Header]) -> tuple[bytes, bool]:
        """As `encode`, if a field replaces a default one, or is the server's to send."""
        names = {name for name, _ in headers}
        lines = [STATUS_LINES[status]]
        lines += [b"%b: %b\r\n" % field for field in self._defaults if field[0] not in names]
        closes = False
        for field in headers:
            name, value = field
            if name not in _OURS:
                lines.append(b"%b: %b\r\n" % field)
            elif name == b"connection":
                closes = closes or b"close" in value.lower()
            elif name == b"upgrade" and status == 426:
                lines.append(b"%b: %b\r\n" % field)  # RFC 9110, 15.5.22
        return b"".join(lines), closes


def _encode_fields(fields: Iterable[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def encode_trailers(fields: Iterable[Header]) -> bytes:
    """Encode trailers, without the fields that only the server sends: a trailer cannot change how the message
    is read (RFC 9110, 6.5.1).
    """
    return _encode_fields(field for field in fields if field[0] not in _OURS)


def encode_end(data: bytes, trailers: bytes) -> bytes:
    """Encode the end of a chunked body: `data`, the last chunk and the trailers (RFC 9112, 7.1).

    Empty data makes no chunk, as an empty chunk would end the body before its trailers.
    """
    if not data:
        return b"0\r\n%b\r\n" % trailers
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)


def frame_file(size: int, more: bool, trailers: bytes = b"") -> tuple[bytes, bytes]:
    """The bytes before and behind a file of `size` bytes, which is sent as one chunk."""
    return b"%x\r\n" % size, b"\r\n" if more else b"\r\n0\r\n%b\r\n" % trailers


def encode_informational(status: int, headers: Sequence[Header]) -> bytes:
    """Encode an interim response (RFC 9110, 15.2)."""
    return STATUS_LINES[status] + _encode_fields(headers) + b"\r\n"
