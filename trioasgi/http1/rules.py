"""What the head of a request means: the rules above both codecs.

`Rule` lists each malformed or ambiguous form with its answer and its section. Where the RFC leaves a choice,
we take the stricter reading: a request that two recipients read differently can be smuggled past a proxy.
After the answer to a broken rule the connection closes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import AUTHORITY, FIELD_LINE
from trioasgi.http1.codec import GrammarError
from trioasgi.http1.request import Fields, HTTP1Request
from trioasgi.http1.request_line import METHODS, REQUEST_LINE, VERSIONS, diagnose_line, longest_head
from trioasgi.http1.rule import RequestError, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trioasgi.http.limits import Limits
    from trioasgi.http.request import Header
    from trioasgi.http1.codec import Codec


_FIELD_LINE: Final = re.compile(FIELD_LINE)
_AUTHORITY: Final = re.compile(AUTHORITY)
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")

_MAX_AUTHORITY: Final = 261  # a name of 255 bytes, a colon and a port

_LENGTH_DIGITS: Final = 18  # more than any body that could be sent, and less than overflows anybody's 64 bits


@lru_cache(maxsize=512)
def _is_authority(value: bytes) -> bool:
    return _AUTHORITY.fullmatch(value) is not None


MAX_REMEMBERED: Final = 512
"""Bytes of the longest head that is remembered. Its parsed fields take several times as many."""


COUNT_FROM: Final = 2048
"""Bytes. The fields of a longer head are counted before they are read."""


class HeadReader:
    """Reads and checks the heads of one connection's requests.

    It remembers the last head and its fields, if the head has at most `MAX_REMEMBERED` bytes. Many clients
    repeat their fields, or the whole head, byte for byte, and then it is not read again.

    `head` are the remembered bytes, and `request` is the request that they mean.
    """

    __slots__ = ("_codec", "_fields_at", "_limits", "_scheme", "head", "request")

    def __init__(self, codec: Codec, limits: Limits, scheme: str) -> None:
        self._scheme = scheme
        self._codec = codec
        self._limits = limits
        self._fields_at = 0
        self.head = b""
        self.request: HTTP1Request | None = None

    def read(self, head: bytes) -> HTTP1Request:
        """Read a head, which ends with its empty line. Raises RequestError with the broken rule."""
        last = self.request
        line = REQUEST_LINE.match(head)
        if line is None:
            raise RequestError(diagnose_line(head, self._limits))
        name, target, path, query, version = line.groups()
        method = METHODS.get(name)
        if method is None or len(target) > self._limits.target:
            raise RequestError(diagnose_line(head, self._limits))
        if len(head) > self._limits.header_bytes and len(head) > longest_head(self._limits):
            raise RequestError(Rule.FIELDS_SIZE)
        authority: bytes | None = None
        if path is None:
            # Before the codec reads the fields: llhttp has rules of its own for targets.
            path, query, authority = _read_other_form(method, target)
        http_version = VERSIONS[version]
        fields_at = line.end()
        if (
            last is not None
            and last.http_version == http_version
            and head[fields_at:] == self.head[self._fields_at :]
        ):
            fields = last.fields
        else:
            fields = self._read_fields(head, version)
        self._fields_at = fields_at
        headers: Sequence[Header] = fields.headers
        if authority is not None:
            headers = [(b"host", authority), *(field for field in headers if field[0] != b"host")]
        request = HTTP1Request(
            self._scheme,
            method,
            target,
            path,
            query or b"",
            http_version,
            headers,
            fields.websocket,
            False,
            fields,
        )
        # The connection may now be idle for long, so it keeps short heads only.
        self.head, self.request = (head, request) if len(head) <= MAX_REMEMBERED else (b"", None)
        return request

    def _read_fields(self, head: bytes, version: bytes) -> Fields:
        # Counting lines is much faster than reading fields. The request line and the empty line are no
        # fields.
        if len(head) > COUNT_FROM and head.count(b"\n") - 2 > self._limits.header_count:
            raise RequestError(Rule.FIELDS_COUNT)
        try:
            headers = self._codec.read_fields(head)
        except GrammarError:
            headers = _read_field_lines(head)
        fields = Fields(headers, version == b"1.1")
        _check_fields(fields, version, self._limits, len(head))
        return fields


def _read_field_lines(head: bytes) -> list[Header]:
    """Read the fields of a head that the codec refuses, though its request line is right.

    A codec may refuse a field for its meaning, as llhttp refuses an unknown Transfer-Encoding. The rules
    decide that. So this checks the grammar only. Raises RequestError.
    """
    fields = []
    for line in head.split(b"\r\n")[1:-2]:
        if _FIELD_LINE.fullmatch(line) is None:
            raise RequestError(Rule.FIELDS)
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def _check_fields(fields: Fields, version: bytes, limits: Limits, head_size: int) -> None:
    headers = fields.headers
    if len(headers) > limits.header_count:
        raise RequestError(Rule.FIELDS_COUNT)
    notes = _NOTES
    host: bytes | None = None
    options: list[bytes] = []
    protocols: list[bytes] = []
    for name, value in headers:
        if name in notes:
            if name == b"host":
                if host is not None:
                    raise RequestError(Rule.HOST_REPEATED)
                host = _checked_host(value)
            elif name == b"connection":
                options += _members(value)
            elif name == b"upgrade":
                protocols += _members(value)
            else:
                notes[name](fields, value, version)
    if options:
        _note_options(fields, options)
    # If the whole head is within the limit, so are its fields.
    if head_size > limits.header_bytes and _size(headers) > limits.header_bytes:
        raise RequestError(Rule.FIELDS_SIZE)
    if host is None and version == b"1.1":
        raise RequestError(Rule.HOST_MISSING)
    if protocols and version == b"1.1":  # RFC 9110, 7.8: Upgrade means nothing in HTTP/1.0
        fields.websocket = b"websocket" in protocols and b"upgrade" in options
    if fields.content_length is not None:
        if fields.chunked:
            raise RequestError(Rule.LENGTH_AND_CODING)
        if limits.body and fields.content_length > limits.body:
            raise RequestError(Rule.BODY_SIZE)


def _size(headers: list[Header]) -> int:
    """Bytes of header fields. Each counts with its colon, one space and the line end."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _members(value: bytes) -> list[bytes]:
    """The members of a list, in lower case, without empty ones (RFC 9110, 5.6.1.2)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]


def _note_options(fields: Fields, options: list[bytes]) -> None:
    """`close` overrides `keep-alive`, in any order and field (RFC 9112, 9.3)."""
    if b"close" in options:
        fields.keep_alive = False
    elif b"keep-alive" in options:
        fields.keep_alive = True


def _checked_host(value: bytes) -> bytes:
    if len(value) > _MAX_AUTHORITY or not _is_authority(value):
        raise RequestError(Rule.HOST_INVALID)
    return value


def _note_content_length(fields: Fields, value: bytes, _version: bytes) -> None:
    if fields.content_length is not None:
        raise RequestError(Rule.LENGTH_REPEATED)
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise RequestError(Rule.LENGTH_INVALID)
    fields.content_length = int(value)


def _note_transfer_encoding(fields: Fields, value: bytes, version: bytes) -> None:
    if version == b"1.0":
        raise RequestError(Rule.CODING_IN_1_0)
    codings = _members(value)
    # RFC 9112, 6.3: without chunked at its end the field leaves the length unknown. An empty field does too,
    # though some recipients ignore it.
    if (
        fields.chunked
        or not codings
        or codings.count(b"chunked") > 1
        or (b"chunked" in codings and codings[-1] != b"chunked")
    ):
        raise RequestError(Rule.CODING_NOT_FINAL)
    if codings != [b"chunked"]:
        raise RequestError(Rule.CODING_UNKNOWN)
    fields.chunked = True


def _note_expectation(fields: Fields, value: bytes, version: bytes) -> None:
    for expectation in _members(value):
        if expectation != b"100-continue":
            raise RequestError(Rule.EXPECTATION)
        # RFC 9110, 10.1.1: the expectation of a 1.0 client is ignored.
        fields.expects_continue = version == b"1.1"


def _note_te(fields: Fields, value: bytes, version: bytes) -> None:
    """RFC 9110, 10.1.4. Trailers need the chunked coding, which HTTP/1.0 does not have."""
    if version == b"1.1":
        fields.accepts_trailers |= b"trailers" in _members(value)


_NOTES: Final[dict[bytes, Callable[[Fields, bytes, bytes], None]]] = {
    # `_check_fields` reads these itself.
    b"host": lambda _fields, _value, _version: None,
    b"connection": lambda _fields, _value, _version: None,
    b"upgrade": lambda _fields, _value, _version: None,
    b"content-length": _note_content_length,
    b"transfer-encoding": _note_transfer_encoding,
    b"expect": _note_expectation,
    b"te": _note_te,
}
"""The fields that concern the message itself, and how each is read."""


def _read_other_form(method: str, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and authority of a target in asterisk-form (RFC 9112, 3.2.4) or absolute-form (3.2.2). An
    authority in the target replaces Host.
    """
    if target == b"*":
        if method != "OPTIONS":
            raise RequestError(Rule.ASTERISK)
        return target, b"", None
    match = _ABSOLUTE.fullmatch(target)
    if match is None or len(match[1]) > _MAX_AUTHORITY or not _is_authority(match[1]):
        raise RequestError(Rule.TARGET_FORM)
    authority, rest = match.groups()
    if method == "OPTIONS" and not rest:
        return b"*", b"", authority  # RFC 9112, 3.2.4: as a proxy would forward it
    path, _, query = rest.partition(b"?")
    return path or b"/", query, authority
