"""The head of a response, and its trailers, in bytes (RFC 9112, 4 and 5)."""

from __future__ import annotations

import time
from itertools import chain, cycle, pairwise
from typing import TYPE_CHECKING, Final, TypeGuard

from trioasgi.http.response_fields import (
    CONTENT_LENGTH,
    are_sendable,
    check_length,
    check_name,
    malformed_fields,
    unsendable_value,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trioasgi.http.fields import DefaultFields
    from trioasgi.http.request import Header
    from trioasgi.http.response_fields import ByteString, GivenField


# Not from http.HTTPStatus: to load it takes fifty times as long, and its phrases depend on Python's version.
_PHRASES: Final = {
    100: b"Continue",
    101: b"Switching Protocols",
    102: b"Processing",
    103: b"Early Hints",
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    203: b"Non-Authoritative Information",
    204: b"No Content",
    205: b"Reset Content",
    206: b"Partial Content",
    207: b"Multi-Status",
    208: b"Already Reported",
    226: b"IM Used",
    300: b"Multiple Choices",
    301: b"Moved Permanently",
    302: b"Found",
    303: b"See Other",
    304: b"Not Modified",
    305: b"Use Proxy",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    406: b"Not Acceptable",
    407: b"Proxy Authentication Required",
    408: b"Request Timeout",
    409: b"Conflict",
    410: b"Gone",
    411: b"Length Required",
    412: b"Precondition Failed",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    416: b"Range Not Satisfiable",
    417: b"Expectation Failed",
    418: b"I'm a Teapot",
    421: b"Misdirected Request",
    422: b"Unprocessable Content",
    423: b"Locked",
    424: b"Failed Dependency",
    425: b"Too Early",
    426: b"Upgrade Required",
    428: b"Precondition Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    451: b"Unavailable For Legal Reasons",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    506: b"Variant Also Negotiates",
    507: b"Insufficient Storage",
    508: b"Loop Detected",
    510: b"Not Extended",
    511: b"Network Authentication Required",
}
"""The phrases of RFC 9110, 15, and of IANA's registry."""


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        # An empty phrase is legal, but some load generators count it as a failure.
        return _status_line(status, b"Unknown")


def _status_line(status: int, phrase: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase)


STATUS_LINES: Final = _StatusLines({status: _status_line(status, _PHRASES[status]) for status in _PHRASES})
"""The status line of each status code, with its standard phrase."""

CONTINUE: Final = STATUS_LINES[100] + b"\r\n"
CONNECTION_CLOSE: Final = b"connection: close\r\n"
CONNECTION_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
UPGRADE_WEBSOCKET: Final = b"upgrade: websocket\r\nconnection: upgrade\r\n"


# Fields about framing or about the connection: only the server sends them.
# `keep-alive`, `proxy-connection` and `upgrade` are hop-by-hop fields as well (RFC 9110, 7.6.1).
_OURS: Final = frozenset(
    {b"connection", b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"}
)

SAMPLE: Final = 17
_is_sample: Final = cycle([False] * (SAMPLE - 1) + [True]).__next__
_MAX_LINES: Final = 512
_MAX_LINE_SIZE: Final = 256
"""The new fields of one response in `SAMPLE` are remembered: fields that come again are known soon, and those
that never do cost little. A prime number, as responses may alternate. Then how many lines are remembered at
most, and the most bytes of each.
"""

_MAX_NAMES: Final = 1024
_MAX_NAME_SIZE: Final = 64
"""How many names are remembered at most, and the most bytes of each."""

_LENGTH: Final = b"content-length: "


class HeadEncoder:
    """Encodes status lines and header fields, with the default fields that the application does not send.

    It remembers what responses have in common: names of fields; the lines of single fields; and for a second,
    each status line that was used, with the default fields behind it.
    """

    __slots__ = (
        "_beginnings",
        "_defaults",
        "_fields",
        "_lengths",
        "_lines",
        "_names",
        "_second",
        "_second_end",
        "_special",
    )

    def __init__(self, fields: DefaultFields) -> None:
        self._fields = fields
        self._special = frozenset(_encode_name(name) for name in (*_OURS, *fields.names, CONTENT_LENGTH))
        self._second = self._second_end = 0.0  # the beginning and the end of a second since the epoch
        self._defaults: tuple[Header, ...] = ()  # of this second
        self._beginnings: dict[int, bytes] = {}
        self._names: dict[ByteString, bytes] = {}  # as the application writes them, and encoded
        self._lines: dict[GivenField, bytes] = {}
        self._lengths: dict[GivenField, tuple[int, bytes]] = {}
        """Of Content-Length, whose lines in `_lines` are empty, as a response may not take them."""

    def encode(
        self, status: int, headers: Iterable[GivenField] = (), takes_length: bool = True
    ) -> tuple[list[bytes], int | None, bool]:
        """Check and encode the head of a response, without the fields of `_OURS` and the empty line. Return
        its pieces, the Content-Length, and whether `headers` ask to close the connection. The pieces have
        Content-Length if `takes_length`.

        Raises ASGIMessageError.
        """
        now = time.time()
        if not self._second <= now < self._second_end:  # also earlier: a clock may be set back
            self._begin_second(now)
        lines = [self._beginnings.get(status) or self._begin(status)]
        values: list[bytes] = []
        special: list[Header] = []
        length: int | None = None
        known_lines, known_names = self._lines, self._names
        try:
            for field in headers:
                try:
                    line = known_lines.get(field)
                except (TypeError, ValueError):
                    line = None  # a list has no hash, nor has a view of bytes that may change
                if line:
                    lines.append(line)
                    continue
                if line is not None and length is None:
                    length, line = self._lengths[field]
                    if takes_length:
                        lines.append(line)
                    continue
                given, value = field
                name = known_names.get(given) or self._learn_name(given)
                if type(value) is not bytes:
                    value = bytes(memoryview(value))
                values.append(value)
                if name not in self._special:
                    lines += (name, value, b"\r\n")
                elif name == _LENGTH:
                    length = check_length(value, length)
                    if takes_length:
                        lines.append(b"%b%d\r\n" % (name, length))  # without leading zeros
                else:
                    special.append((name, value))
        except (TypeError, ValueError, AttributeError) as exc:
            raise malformed_fields(headers) from exc
        if values:
            if not are_sendable(values):
                encoded = chain(pairwise(lines), special)  # `headers` may be given only once
                raise unsendable_value(values, ((name.removesuffix(b": "), value) for name, value in encoded))
            if _is_sample():
                self._remember(headers)
        if special:
            return self._encode_special(status, lines, special), length, _asks_to_close(special)
        return lines, length, False

    def _begin_second(self, now: float) -> None:
        self._second = now // 1
        self._second_end = self._second + 1
        self._defaults = self._fields.at(now)
        self._beginnings = {}

    def _begin(self, status: int) -> bytes:
        """Encode a status line and the default fields."""
        beginning = STATUS_LINES[status] + _encode_fields(self._defaults)
        self._beginnings[status] = beginning
        return beginning

    def _learn_name(self, given: ByteString) -> bytes:
        """Check and encode a name. It is remembered, except for a view: that may change."""
        encoded = _encode_name(check_name(given))
        if len(self._names) < _MAX_NAMES and len(given) <= _MAX_NAME_SIZE and type(given) is bytes:
            self._names[given] = encoded
        return encoded

    def _remember(self, headers: Iterable[GivenField]) -> None:
        """Remember the lines of the fields that cannot change. Special ones have none."""
        if type(headers) is not list and type(headers) is not tuple:
            return  # what else can be iterated may have other fields now, which nobody has checked
        fields: list[Header] = [field for field in headers if _is_constant(field)]
        if not are_sendable([value for _, value in fields]):
            return  # the application has put another field into its list since we have checked it
        for field in fields:
            given, value = field
            name = self._names.get(given)
            if name is None or len(name) + len(value) > _MAX_LINE_SIZE:
                continue
            if len(self._lines) >= _MAX_LINES:
                self._lines.clear()
                self._lengths.clear()
            if name != _LENGTH:
                if name not in self._special:
                    self._lines[field] = b"%b%b\r\n" % (name, value)
            elif value.isdigit():
                length = int(value)
                self._lengths[field] = length, b"%b%d\r\n" % (name, length)
                self._lines[field] = b""

    def _encode_special(self, status: int, lines: list[bytes], special: list[Header]) -> list[bytes]:
        """As `encode`, if fields in `special` replace default ones, or are the server's to send."""
        names = {name for name, _ in special}
        defaults = [field for field in self._defaults if _encode_name(field[0]) not in names]
        own = [
            b"%b%b\r\n" % field
            for field in special
            # RFC 9110, 15.5.22: a 426 offers protocols
            if field[0] not in _OUR_NAMES or (field[0] == _UPGRADE and status == 426)
        ]
        if status == 426 and _UPGRADE in names:
            own.append(b"connection: upgrade\r\n")  # RFC 9110, 7.8
        return [STATUS_LINES[status], _encode_fields(defaults), *lines[1:], *own]


def _is_constant(field: GivenField) -> TypeGuard[Header]:
    """Is it a name and a value that cannot change?"""
    return type(field) is tuple and len(field) == 2 and type(field[0]) is bytes and type(field[1]) is bytes


def _encode_name(name: bytes) -> bytes:
    return name + b": "


_OUR_NAMES: Final = frozenset(map(_encode_name, _OURS))
_UPGRADE: Final = b"upgrade: "


def _asks_to_close(fields: Iterable[Header]) -> bool:
    return any(name == b"connection: " and b"close" in value.lower() for name, value in fields)


def _encode_fields(fields: Iterable[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def encode_trailers(fields: Iterable[Header]) -> bytes:
    """Encode trailers, without the fields that only the server sends: a trailer cannot change how the message
    is read (RFC 9110, 6.5.1).
    """
    return _encode_fields(field for field in fields if field[0] not in _OURS)


def encode_informational(status: int, headers: Sequence[Header]) -> bytes:
    """Encode an interim response (RFC 9110, 15.2)."""
    return STATUS_LINES[status] + _encode_fields(headers) + b"\r\n"
