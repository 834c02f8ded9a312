"""The bytes of a response: status lines, the head, the framing of its body (RFC 9112, 4, 6 and 7)."""

from __future__ import annotations

import time
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from trioasgi.http.exchange import Header


class Framing(Enum):
    """How the end of a response's body is told (RFC 9112, 6.3)."""

    NONE = "there is no body: HEAD, 204, 304"
    LENGTH = "Content-Length"
    CHUNKED = "the chunked coding"
    CLOSE = "the connection's end"
    LOST = "it cannot be told any more: a part of the body was begun, and given up within"


_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}

STATUS_LINES: Final = tuple(
    # An empty phrase is legal, but load generators have been seen to count it as a failure.
    f"HTTP/1.1 {status} {_PHRASES.get(status, 'Unknown')}\r\n".encode("ascii")
    for status in range(1000)
)
"""The status line of each status code. Phrases are the standard ones; there is no status code above 999."""

CONTINUE: Final = STATUS_LINES[100] + b"\r\n"
CONNECTION_CLOSE: Final = b"connection: close\r\n"
CONNECTION_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
UPGRADE_WEBSOCKET: Final = b"upgrade: websocket\r\nconnection: upgrade\r\n"
TRANSFER_ENCODING_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
NO_CONTENT_LENGTH: Final = b"content-length: 0\r\n"


# Fields that say how the message is framed or what becomes of the connection, which is the server's to say.
# `keep-alive`, `proxy-connection` and `upgrade` are hop-by-hop fields as well (RFC 9110, 7.6.1).
_OURS: Final = frozenset(
    {b"connection", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"}
)

_MAX_KNOWN_HEADS: Final = 256
_MAX_KNOWN_BYTES: Final = 2048  # of one head


class HeadEncoder:
    """Encodes status lines and header fields, with the fields that the server adds to every response: Date
    (RFC 9110, 6.6.1), Server, and those of `--header`.

    A field that the application sends itself takes the place of ours.
    """

    __slots__ = ("_date", "_defaults", "_extra", "_heads", "_names", "_second", "_server")

    def __init__(self, *, date: bool, server: bool, extra: Sequence[Header] = ()) -> None:
        self._extra = tuple(extra)
        own = {name for name, _ in extra}
        self._date = date and b"date" not in own
        self._server = b"server: trioasgi\r\n" if server and b"server" not in own else b""
        self._names = frozenset({b"date", b"server", *own})
        self._second = -1
        self._defaults = b""
        """All default fields, as they are in this second."""
        self._heads: dict[tuple[int, tuple[Header, ...]], tuple[bytes, bool]] = {}

    def encode(self, status: int, headers: tuple[Header, ...] = ()) -> tuple[bytes, bool]:
        """The head of a response but for what `_OURS` has, for Content-Length and the empty line; and
        whether `headers` ask for the connection to be closed.

        What has been encoded serves again as long as the date is the same: applications repeat themselves.
        """
        second = int(time.time())
        heads = self._heads
        if second != self._second:  # not only later: a clock may be set back
            heads.clear()
            self._second = second
            self._defaults = self._default_fields(frozenset())
        head = heads.get((status, headers))
        if head is None:
            head = self._encode(status, headers)
            if len(head[0]) <= _MAX_KNOWN_BYTES:
                if len(heads) == _MAX_KNOWN_HEADS:
                    heads.clear()
                heads[status, headers] = head
        return head

    def _encode(self, status: int, headers: tuple[Header, ...]) -> tuple[bytes, bool]:
        names = {name for name, _ in headers}
        defaults = self._defaults if self._names.isdisjoint(names) else self._default_fields(names)
        lines = [STATUS_LINES[status], defaults]
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

    def _default_fields(self, given: AbstractSet[bytes]) -> bytes:
        """The default fields but for those that are `given` by the application."""
        date = b"date: %b\r\n" % http_date(self._second) if self._date and b"date" not in given else b""
        server = b"" if b"server" in given else self._server
        extra = b"".join([b"%b: %b\r\n" % field for field in self._extra if field[0] not in given])
        return date + server + extra


_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (
    *(b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun"),
    *(b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"),
)


def http_date(now: float) -> bytes:
    """Seconds since the epoch as an IMF-fixdate (RFC 9110, 5.6.7).

    Not by strftime, which speaks the language of the application's locale; nor by `email.utils`, which takes
    longer to load than any module of this package.
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(now)
    clock = b"%02d:%02d:%02d" % (hour, minute, second)
    return b"%b, %02d %b %04d %b GMT" % (_DAYS[weekday], day, _MONTHS[month - 1], year, clock)


def encode_chunk(data: bytes, more: bool, trailers: bytes = b"") -> bytes:
    """One chunk, and the last one behind it, with its trailers, unless there are `more` (RFC 9112, 7.1).

    Nothing is made of no data, as an empty chunk would end the body.
    """
    if more:
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
    if not data:
        return b"0\r\n%b\r\n" % trailers
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)


def frame_file(size: int, more: bool, trailers: bytes = b"") -> tuple[bytes, bytes]:
    """What stands before and behind `size` bytes that are sent as one chunk, and do not pass through here."""
    return b"%x\r\n" % size, b"\r\n" if more else b"\r\n0\r\n%b\r\n" % trailers


def encode_informational(status: int, headers: Sequence[Header]) -> bytes:
    """An interim response (RFC 9110, 15.2)."""
    fields = b"".join(b"%b: %b\r\n" % field for field in headers)
    return STATUS_LINES[status] + fields + b"\r\n"
