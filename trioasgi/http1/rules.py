"""What a request's head means: the semantic rules above both codecs.

`RULES` states each malformed or ambiguous form, what is answered, and which section says so. Where the RFC
leaves a choice, the stricter reading is taken: a form that two recipients may read differently is how
requests are smuggled past a proxy. Every violation ends the connection after its answer.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from trioasgi.http1.codec import GrammarError, HTTP1Request, Limits, RequestError

if TYPE_CHECKING:
    from trioasgi.exchange import Header
    from trioasgi.http1.codec import Codec


class Rule(Enum):
    """A way in which a request can be wrong: (status, what is said of it, where that is written)."""

    REQUEST_LINE = (400, "malformed request line", "RFC 9112, 3")
    METHOD = (501, "unknown method", "RFC 9110, 9.1")
    CONNECT = (501, "CONNECT is for proxies", "RFC 9110, 9.3.6")
    VERSION = (505, "not HTTP/1.0 or HTTP/1.1", "RFC 9110, 15.6.6")
    TARGET_LENGTH = (414, "the request target is too long", "RFC 9110, 15.5.15")
    TARGET_FORM = (400, "malformed request target", "RFC 9112, 3.2")
    ASTERISK = (400, "the asterisk-form is for OPTIONS alone", "RFC 9112, 3.2.4")
    FIELDS = (400, "malformed header fields", "RFC 9112, 5")
    FIELDS_SIZE = (431, "the header fields are too large", "RFC 6585, 5")
    FIELDS_COUNT = (431, "there are too many header fields", "RFC 6585, 5")
    HOST_MISSING = (400, "no Host field", "RFC 9112, 3.2")
    HOST_REPEATED = (400, "more than one Host field", "RFC 9112, 3.2")
    HOST_INVALID = (400, "invalid Host field", "RFC 9112, 3.2; RFC 3986, 3.2")
    LENGTH_INVALID = (400, "invalid Content-Length", "RFC 9112, 6.3")
    LENGTH_REPEATED = (400, "more than one Content-Length", "RFC 9112, 6.3")
    LENGTH_AND_CODING = (400, "both Content-Length and Transfer-Encoding", "RFC 9112, 6.1")
    CODING_UNKNOWN = (501, "unknown transfer coding", "RFC 9112, 6.1")
    CODING_NOT_FINAL = (
        400,
        "chunked is not the final transfer coding, or stands twice",
        "RFC 9112, 6.3 and 7.1",
    )
    CODING_IN_1_0 = (400, "Transfer-Encoding in HTTP/1.0", "RFC 9112, 6.1")
    BODY_SIZE = (413, "the body is too large", "RFC 9110, 15.5.14")
    CHUNK = (400, "malformed chunked body", "RFC 9112, 7.1")
    TRAILERS_SIZE = (431, "the trailer fields are too large", "RFC 9112, 7.1.2")
    EXPECTATION = (417, "unknown expectation", "RFC 9110, 10.1.1")
    HEAD_TIMEOUT = (408, "the head of the request took too long", "RFC 9110, 15.5.9")
    BODY_TIMEOUT = (408, "the body of the request took too long", "RFC 9110, 15.5.9")
    HEAD_CUT = (400, "the connection ended within the head of a request", "RFC 9112, 8")

    def error(self) -> RequestError:
        """The error that carries this rule's answer."""
        status, reason, _section = self.value
        return RequestError(status, reason)


_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
"""RFC 9110, 5.6.2"""

_REQUEST_LINE: Final = re.compile(rb"([A-Z\-]+) ([\x21-\x7e]+) HTTP/(1\.[01])\r\n")
"""RFC 9112, 3, for the methods and versions that are served."""

_ANY_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/([0-9]\.[0-9])")

_VERSION_SO_FAR: Final = rb"(?:HTTP/[0-9]\.[0-9]\r?|HTTP/[0-9]\.|HTTP/[0-9]|HTTP/?|HTT|HT|H)?"
_PART_OF_A_LINE: Final = re.compile(_TOKEN + rb"(?: (?:[^\x00-\x20\x7f]+(?: " + _VERSION_SO_FAR + rb")?)?)?")
"""What the beginning of a request line may look like while its end has not arrived."""

_FIELD_LINE: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[^\x00-\x08\x0a-\x1f\x7f])*)")

# The methods that llhttp knows, so that both codecs serve the same: RFC 9110, 5789, 4918, 3253, 5842, 3744,
# 4791, UPnP and QUERY.
_METHODS: Final = """
    GET POST HEAD PUT DELETE OPTIONS PATCH TRACE QUERY
    PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE
    M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK SOURCE
"""
METHODS: Final[dict[bytes, str]] = {name.encode(): name for name in _METHODS.split()}

_VERSIONS: Final[dict[bytes, str]] = {b"1.1": "1.1", b"1.0": "1.0"}

# RFC 3986, 3.2.2 and 3.2.3, without userinfo (RFC 9110, 4.2.4): an IP literal or a registered name, and a
# port.
_AUTHORITY: Final = re.compile(
    rb"(?:\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?"
)

_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")

_MAX_AUTHORITY: Final = 261  # a name of 255 bytes, a colon and a port

_LENGTH_DIGITS: Final = 18  # more than any body that could be sent, and less than overflows anybody's 64 bits

_MEANINGFUL: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"})


@lru_cache(maxsize=512)
def _is_authority(value: bytes) -> bool:
    return _AUTHORITY.fullmatch(value) is not None


def read_head(head: bytes, codec: Codec, limits: Limits) -> HTTP1Request:
    """Read and check a whole head. Raises RequestError with the answer for what is wrong with it."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise diagnose(head, limits)
    method = METHODS.get(line[1])
    if method is None:
        raise diagnose(head, limits)
    try:
        fields = codec.read_fields(head)
    except GrammarError:
        raise diagnose(head, limits) from None
    request = HTTP1Request(method, line[2], _VERSIONS[line[3]], fields)
    _check(request, limits)
    return request


def check_beginning(part: bytes, limits: Limits) -> None:
    """Look at a head whose end has not arrived: too long already, or none at all? Raises RequestError."""
    line, end, _ = part.partition(b"\n")
    if end:
        if _REQUEST_LINE.fullmatch(line + end) is None:
            raise diagnose(part, limits)
    elif _PART_OF_A_LINE.fullmatch(line) is None:
        raise Rule.REQUEST_LINE.error()
    elif len(line) > limits.target + 64:
        raise Rule.TARGET_LENGTH.error()
    if len(part) > limits.head_bytes:
        raise Rule.FIELDS_SIZE.error()


def diagnose(head: bytes, limits: Limits) -> RequestError:
    """Find out what is wrong with a head that could not be read: the first rule that it breaks, from its
    first byte on.
    """
    line, _, rest = head.partition(b"\n")
    match = _ANY_REQUEST_LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        return Rule.REQUEST_LINE.error()
    method, target, version = match.groups()
    if version not in _VERSIONS:
        return Rule.VERSION.error()
    if not line.endswith(b"\r"):
        return Rule.REQUEST_LINE.error()
    if method not in METHODS:
        return (Rule.CONNECT if method == b"CONNECT" else Rule.METHOD).error()
    request = HTTP1Request(METHODS[method], target, _VERSIONS[version], _read_fields_as_far_as_possible(rest))
    try:
        _check(request, limits)
    except RequestError as error:
        return error
    return Rule.FIELDS.error()


def _read_fields_as_far_as_possible(rest: bytes) -> list[Header]:
    fields = []
    for line in rest.split(b"\r\n"):
        match = _FIELD_LINE.fullmatch(line)
        if match is None:
            break
        fields.append((match[1].lower(), match[2].rstrip(b" \t")))
    return fields


def _check(request: HTTP1Request, limits: Limits) -> None:
    _check_target(request, limits)
    headers = request.headers
    if len(headers) > limits.header_count:
        raise Rule.FIELDS_COUNT.error()
    size = 4 * len(headers)  # colon, space and line end of each
    host: bytes | None = None
    coded = False
    for name, value in headers:
        size += len(name) + len(value)
        if name not in _MEANINGFUL:
            continue
        match name:
            case b"host":
                if host is not None:
                    raise Rule.HOST_REPEATED.error()
                host = value
            case b"connection":
                _note_connection(request, value)
            case b"content-length":
                _note_content_length(request, value)
            case b"transfer-encoding":
                if coded:
                    raise Rule.CODING_NOT_FINAL.error()
                coded = True
                _note_transfer_encoding(request, value)
            case b"expect":
                _note_expectation(request, value)
    if size > limits.header_bytes:
        raise Rule.FIELDS_SIZE.error()
    _check_host(request, host)
    if request.content_length is not None:
        _check_length(request, limits)


def _check_target(request: HTTP1Request, limits: Limits) -> None:
    target = request.target
    if len(target) > limits.target:
        raise Rule.TARGET_LENGTH.error()
    if b"#" in target or not target.isascii():
        raise Rule.TARGET_FORM.error()
    if target.startswith(b"/"):
        if b"?" in target:
            request.path, _, request.query = target.partition(b"?")
    elif target == b"*":
        if request.method != "OPTIONS":
            raise Rule.ASTERISK.error()
    else:
        _read_absolute_form(request)


def _read_absolute_form(request: HTTP1Request) -> None:
    """RFC 9112, 3.2.2: its authority takes the place of whatever Host says."""
    match = _ABSOLUTE.fullmatch(request.target)
    if match is None or len(match[1]) > _MAX_AUTHORITY or not _is_authority(match[1]):
        raise Rule.TARGET_FORM.error()
    authority, rest = match.groups()
    path, _, request.query = rest.partition(b"?")
    request.path = path or b"/"
    if request.method == "OPTIONS" and not rest:
        request.path = b"*"  # RFC 9112, 3.2.4: what a proxy makes of it
    hosts = sum(name == b"host" for name, _ in request.headers)
    if hosts > 1:
        raise Rule.HOST_REPEATED.error()
    if not hosts and request.http_version == "1.1":
        raise Rule.HOST_MISSING.error()
    request.headers = [
        *((name, authority if name == b"host" else value) for name, value in request.headers),
        *([] if hosts else [(b"host", authority)]),
    ]


def _note_connection(request: HTTP1Request, value: bytes) -> None:
    """RFC 9112, 9.3: `close` goes before `keep-alive`, in whichever order and field they stand."""
    options = {option.strip(b" \t") for option in value.lower().split(b",")}
    if b"close" in options:
        request.keep_alive = False
        request.refuses_keep_alive = True
    elif b"keep-alive" in options and not request.refuses_keep_alive:
        request.keep_alive = True


def _note_content_length(request: HTTP1Request, value: bytes) -> None:
    if request.content_length is not None:
        raise Rule.LENGTH_REPEATED.error()
    if not value.isdigit() or len(value) > _LENGTH_DIGITS:
        raise Rule.LENGTH_INVALID.error()
    request.content_length = int(value)


def _note_transfer_encoding(request: HTTP1Request, value: bytes) -> None:
    if request.http_version == "1.0":
        raise Rule.CODING_IN_1_0.error()
    codings = [coding.strip(b" \t") for coding in value.lower().split(b",")]
    if codings.count(b"chunked") > 1 or (b"chunked" in codings and codings[-1] != b"chunked"):
        raise Rule.CODING_NOT_FINAL.error()
    if codings != [b"chunked"]:
        raise Rule.CODING_UNKNOWN.error()
    request.chunked = True


def _note_expectation(request: HTTP1Request, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise Rule.EXPECTATION.error()
    # RFC 9110, 10.1.1: a 1.0 client does not know what it asks for.
    request.expects_continue = request.http_version == "1.1"


def _check_host(request: HTTP1Request, host: bytes | None) -> None:
    if host is None:
        if request.http_version == "1.1":
            raise Rule.HOST_MISSING.error()
    elif len(host) > _MAX_AUTHORITY or not _is_authority(host):
        raise Rule.HOST_INVALID.error()


def _check_length(request: HTTP1Request, limits: Limits) -> None:
    if request.chunked:
        raise Rule.LENGTH_AND_CODING.error()
    if limits.body and request.content_length is not None and request.content_length > limits.body:
        raise Rule.BODY_SIZE.error()
