"""The request line (RFC 9112, 3): its grammar, and which rule one breaks, also before its end has arrived.

However the bytes of a head arrive, the answer to what is wrong with it is the same, since its rules are
looked at in the order in which they can be broken: the request line, the size, the target's form, the
grammar of the fields, their meaning.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import TOKEN, TOKEN_CHARS
from trioasgi.http1.rule import RequestError, Rule

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits

REQUEST_LINE: Final = re.compile(
    rb"""
    ([A-Z\-]+)[ ]
    ( (/[!"$-\x3e@-~]*) (?: \? ([!"$-~]*) )?   # origin-form: an absolute path and a query
    | [!"$-.0-~][!"$-~]*                        # another form
    )
    [ ]HTTP/(1\.[01])\r\n
    """,
    re.VERBOSE,
)
"""RFC 9112, 3, for the versions that are served: method, target, path and query of the origin-form, version.

A target is visible ASCII but for `#`: what RFC 3986 allows, and those characters besides that browsers leave
as they are.
"""

_ANY_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/([0-9]\.[0-9])")


_METHOD: Final = re.compile(rb"[" + TOKEN_CHARS + rb"]*")
_TARGET: Final = re.compile(rb"[^\x00-\x20\x7f]*")
_VERSION_SO_FAR: Final = re.compile(rb"(?:HTTP/[0-9]\.[0-9]\r?|HTTP/[0-9]\.|HTTP/[0-9]|HTTP/?|HTT|HT|H)?")
"""What the parts of a request line may look like while its end has not arrived."""

# The methods that llhttp knows, so that both codecs serve the same: RFC 9110, 5789, 4918, 3253, 5842, 3744,
# 4791, UPnP and QUERY.
_METHODS: Final = """
    GET POST HEAD PUT DELETE OPTIONS PATCH TRACE QUERY
    PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT
    MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK SOURCE
"""
METHODS: Final[dict[bytes, str]] = {name.encode(): name for name in _METHODS.split()}

VERSIONS: Final[dict[bytes, str]] = {b"1.1": "1.1", b"1.0": "1.0"}


_SPACE: Final = 32

_AROUND_TARGET: Final = 64
"""Bytes of a request line besides its target: method, version, their spaces; more than any that is served."""


def longest_line(limits: Limits) -> int:
    """The most bytes that a request line may have."""
    return limits.target + _AROUND_TARGET


def longest_head(limits: Limits) -> int:
    """The most bytes that a head may have, and that are held while its end has not been seen."""
    return longest_line(limits) + limits.header_bytes


class _Part(Enum):
    """What the next byte belongs to. A part ends with a space, the line with an LF."""

    METHOD = auto()
    TARGET = auto()
    VERSION = auto()
    FIELDS = auto()


class HeadBeginning:
    """Looks at the beginning of one head, as it grows: too long already, or none at all?

    It may come byte by byte. So how far it was looked at is kept, and no byte of it is looked at twice.
    """

    __slots__ = ("_at", "_limits", "_longest", "_part", "_start", "seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._longest = longest_line(limits)
        self._part = _Part.METHOD
        self._start = 0  # of the part
        self._at = 0
        self.seen = 0
        """How many bytes were there when it was last checked."""

    def check(self, head: bytes | bytearray) -> None:
        """Look at what has been added to `head`. Raises RequestError for the first rule that it breaks."""
        self.seen = len(head)
        if self._part is not _Part.FIELDS:
            rule = self._check_line(head)
            if rule is not None:
                raise RequestError(rule)
        if len(head) > longest_head(self._limits):
            raise RequestError(Rule.FIELDS_SIZE)

    def _check_line(self, head: bytes | bytearray) -> Rule | None:
        end = head.find(b"\n", self._at)
        rule = self._check_part(head, len(head) if end < 0 else end)
        if rule is None and end >= 0:
            self._part = _Part.FIELDS
            rule = _check_whole(bytes(head[:end]), self._limits)
        return rule

    def _check_part(self, head: bytes | bytearray, size: int) -> Rule | None:
        """The rule that the first `size` bytes of a line break, whatever comes behind them."""
        # What is behind the longest line that there can be changes nothing.
        end = min(size, self._longest + 1)
        while self._at < end:
            if not self._advance(head, end):
                return Rule.REQUEST_LINE
        return Rule.TARGET_LENGTH if size > self._longest else None

    def _advance(self, head: bytes | bytearray, end: int) -> bool:
        """Go on to the end of the part or of what there is; False if that is no request line."""
        if self._part is _Part.VERSION:
            self._at = end
            return _VERSION_SO_FAR.fullmatch(head, self._start, end) is not None
        pattern = _METHOD if self._part is _Part.METHOD else _TARGET
        match = pattern.match(head, self._at, end)
        assert match is not None, "it matches nothing at least"
        self._at = at = match.end()
        if at == end:
            return True
        if head[at] != _SPACE or at == self._start:
            return False
        self._part = _Part.TARGET if self._part is _Part.METHOD else _Part.VERSION
        self._at = self._start = at + 1
        return True


def diagnose_line(head: bytes, limits: Limits) -> Rule:
    """The rule that the request line of a head breaks."""
    rule = HeadBeginning(limits)._check_line(head)
    assert rule is not None, "a request line is wrong, and breaks no rule"
    return rule


def _check_whole(line: bytes, limits: Limits) -> Rule | None:
    """The rule that a request line breaks, which comes without its LF, and is not too long."""
    match = _ANY_REQUEST_LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        return Rule.REQUEST_LINE
    method, target, version = match.groups()
    if version not in VERSIONS:
        return Rule.VERSION
    if not line.endswith(b"\r"):
        return Rule.REQUEST_LINE
    if method not in METHODS:
        return Rule.CONNECT if method == b"CONNECT" else Rule.METHOD
    if len(target) > limits.target:
        return Rule.TARGET_LENGTH
    return Rule.TARGET_FORM if REQUEST_LINE.fullmatch(line + b"\n") is None else None
