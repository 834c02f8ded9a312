"""What the head of a request means: the rules above all codecs.

`Rule` lists each malformed or ambiguous form with its answer and its section. Where the RFC leaves a choice,
we take the stricter reading: a request that two recipients read differently can be smuggled past a proxy.
After the answer to a broken rule the connection closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import FIELD_LINE, LENGTH_DIGITS
from trioasgi.http.authority import is_authority
from trioasgi.http.remembering import Remembering
from trioasgi.http.request import FORWARDED_NAMES
from trioasgi.http1.codec import GrammarError
from trioasgi.http1.request import HTTP1Request
from trioasgi.http1.request_line import METHODS, TARGET_CHARS, VERSIONS, diagnose_line, longest_head
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.patterns import compiled_later

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioasgi.http.limits import Limits
    from trioasgi.http.request import Header
    from trioasgi.http1.codec import Codec


_FIELD_LINE: Final = compiled_later(FIELD_LINE)
_ABSOLUTE: Final = compiled_later(rb"(?i:https?)://([^/?#]*)([^#]*)")

_MAX_AUTHORITY: Final = 261  # a name of 255 bytes, a colon and a port


_authorities: Final = Remembering(is_authority, 512)


COUNT_FROM: Final = 2048
"""Bytes. The fields of a longer head are counted before they are read."""

_MAX_NAMES: Final = 1024
_MAX_NAME_SIZE: Final = 64
"""How many names are remembered at most, and the most bytes of each."""

_known_names: Final[dict[bytes, bytes]] = {}
"""Names of fields that mean nothing for the message itself: as received, and in lower case."""


class HeadReader:
    """Reads and checks the heads of one connection's requests. It keeps nothing of them."""

    __slots__ = ("_codec", "_header_bytes", "_header_count", "_limits", "_scheme", "_target")

    def __init__(self, codec: Codec, limits: Limits, scheme: str) -> None:
        self._scheme = scheme
        self._codec = codec
        self._limits = limits
        # Read for each head: compiled code reads its own attributes faster than those of `limits`.
        self._target = limits.target
        self._header_bytes = limits.header_bytes
        self._header_count = limits.header_count

    def read(self, head: bytes) -> HTTP1Request:
        """Read a head, which ends with its empty line. Raises RequestError with the broken rule."""
        line, _, block = head.partition(b"\r\n")
        try:
            name, target, version = line.split(b" ")
            method, http_version = METHODS[name], VERSIONS[version]
        except (KeyError, ValueError):
            raise RequestError(diagnose_line(head, self._limits)) from None
        if target.translate(TARGET_CHARS) != target or not target or len(target) > self._target:
            raise RequestError(diagnose_line(head, self._limits))
        size = len(head)
        if size > self._header_bytes and size > longest_head(self._limits):
            raise RequestError(Rule.FIELDS_SIZE)
        authority: bytes | None = None
        if target.startswith(b"/"):
            path, _, query = target.partition(b"?")
        else:
            path, query, authority = _read_other_form(method, target)
        # Counting lines is much faster than reading fields. The request line and the empty line are no
        # fields.
        if size > COUNT_FROM and head.count(b"\n") - 2 > self._header_count:
            raise RequestError(Rule.FIELDS_COUNT)
        try:
            received = self._codec.read_fields(block)
        except GrammarError:
            received = _read_field_lines(block)
        headers, noted = _sort_out(received)
        if len(headers) > self._header_count:
            raise RequestError(Rule.FIELDS_COUNT)
        # If the whole head is within the limit, so are its fields.
        if size > self._header_bytes and _size(headers) > self._header_bytes:
            raise RequestError(Rule.FIELDS_SIZE)
        request = HTTP1Request(self._scheme, method, target, path, query, http_version, headers)
        _note_fields(request, noted)
        if request.content_length is not None:
            _check_length(request, request.content_length, self._limits)
        if authority is not None:
            request.headers = [(b"host", authority), *(field for field in headers if field[0] != b"host")]
        return request


def _sort_out(received: list[Header]) -> tuple[list[Header], list[Header]]:
    """The fields with their names in lower case; and those of them that are in `_NOTED`."""
    headers: list[Header] = []
    noted: list[Header] = []
    known = _known_names
    for given, value in received:
        name = known.get(given)
        if name is None:
            name = given.lower()
            if name in _NOTED:
                noted.append((name, value))
            elif len(given) <= _MAX_NAME_SIZE:
                if len(known) >= _MAX_NAMES:
                    known.clear()  # else a client could fill it for good
                known[given] = name
        headers.append((name, value))
    return headers, noted


def _read_field_lines(block: bytes) -> list[Header]:
    """Read fields that the codec refuses.

    A codec may refuse a field for its meaning, as llhttp refuses an unknown Transfer-Encoding. The rules
    decide that. So this checks the grammar only. Raises RequestError.
    """
    fields = []
    for line in block.split(b"\r\n")[:-2]:
        if _FIELD_LINE.fullmatch(line) is None:
            raise RequestError(Rule.FIELDS)
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields


def _note_fields(request: HTTP1Request, noted: list[Header]) -> None:
    """Note in `request` what its fields mean for the message itself."""
    is_1_0 = request.http_version == "1.0"
    if is_1_0:
        request.keep_alive = False
    host: bytes | None = None
    options: list[bytes] = []
    protocols: list[bytes] = []
    forwarded: list[Header] = []
    for field in noted:
        name, value = field
        if name == b"host":
            if host is not None:
                raise RequestError(Rule.HOST_REPEATED)
            host = value
            if len(value) > _MAX_AUTHORITY or not _authorities[value]:
                raise RequestError(Rule.HOST_INVALID)
        elif name in FORWARDED_NAMES:
            forwarded.append(field)
        elif name == b"connection":
            options += _members(value)
        elif name == b"upgrade":
            protocols += _members(value)
        else:
            _NOTES[name](request, value)
    if host is None and not is_1_0:
        raise RequestError(Rule.HOST_MISSING)
    if forwarded:
        request.forwarded = forwarded
    if options:
        _note_options(request, options)
    if protocols and not is_1_0:  # RFC 9110, 7.8: Upgrade means nothing in HTTP/1.0
        request.websocket = b"websocket" in protocols and b"upgrade" in options


def _check_length(request: HTTP1Request, length: int, limits: Limits) -> None:
    if request.chunked:
        raise RequestError(Rule.LENGTH_AND_CODING)
    if limits.body and length > limits.body:
        raise RequestError(Rule.BODY_SIZE)


def _size(headers: list[Header]) -> int:
    """Bytes of header fields. Each counts with its colon, one space and the line end."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _members(value: bytes) -> list[bytes]:
    """The members of a list, in lower case, without empty ones (RFC 9110, 5.6.1.2)."""
    return [member for part in value.lower().split(b",") if (member := part.strip(b" \t"))]


def _note_options(request: HTTP1Request, options: list[bytes]) -> None:
    """`close` overrides `keep-alive`, in any order and field (RFC 9112, 9.3)."""
    if b"close" in options:
        request.keep_alive = False
    elif b"keep-alive" in options:
        request.keep_alive = True


def _note_content_length(request: HTTP1Request, value: bytes) -> None:
    if request.content_length is not None:
        raise RequestError(Rule.LENGTH_REPEATED)
    if not value.isdigit() or len(value) > LENGTH_DIGITS:
        raise RequestError(Rule.LENGTH_INVALID)
    request.content_length = int(value)


def _note_transfer_encoding(request: HTTP1Request, value: bytes) -> None:
    if request.http_version == "1.0":
        raise RequestError(Rule.CODING_IN_1_0)
    codings = _members(value)
    # RFC 9112, 6.3: without chunked at its end the field leaves the length unknown. An empty field does too,
    # though some recipients ignore it.
    if (
        request.chunked
        or not codings
        or codings.count(b"chunked") > 1
        or (b"chunked" in codings and codings[-1] != b"chunked")
    ):
        raise RequestError(Rule.CODING_NOT_FINAL)
    if codings != [b"chunked"]:
        raise RequestError(Rule.CODING_UNKNOWN)
    request.chunked = True


def _note_expectation(request: HTTP1Request, value: bytes) -> None:
    for expectation in _members(value):
        if expectation != b"100-continue":
            raise RequestError(Rule.EXPECTATION)
        # RFC 9110, 10.1.1: the expectation of a 1.0 client is ignored.
        request.expects_continue = request.http_version == "1.1"


def _note_te(request: HTTP1Request, value: bytes) -> None:
    """RFC 9110, 10.1.4. Trailers need the chunked coding, which HTTP/1.0 does not have."""
    if request.http_version == "1.1":
        request.accepts_trailers |= b"trailers" in _members(value)


_NOTES: Final[dict[bytes, Callable[[HTTP1Request, bytes], None]]] = {
    b"content-length": _note_content_length,
    b"transfer-encoding": _note_transfer_encoding,
    b"expect": _note_expectation,
    b"te": _note_te,
}
"""How each of the other fields that concern the message itself is read."""

_NOTED: Final = frozenset({b"host", b"connection", b"upgrade", *_NOTES, *FORWARDED_NAMES})


def _read_other_form(method: str, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query and authority of a target in asterisk-form (RFC 9112, 3.2.4) or absolute-form (3.2.2). An
    authority in the target replaces Host.
    """
    if target == b"*":
        if method != "OPTIONS":
            raise RequestError(Rule.ASTERISK)
        return target, b"", None
    match = _ABSOLUTE.fullmatch(target)
    if match is None or len(match[1]) > _MAX_AUTHORITY or not _authorities[match[1]]:
        raise RequestError(Rule.TARGET_FORM)
    authority, rest = match.groups()
    if method == "OPTIONS" and not rest:
        return b"*", b"", authority  # RFC 9112, 3.2.4: as a proxy would forward it
    path, _, query = rest.partition(b"?")
    return path or b"/", query, authority
