"""The request line (RFC 9112, 3): its grammar, and the rule that a line breaks, also before its end has come.

The rules of a head are checked in the order in which it can break them: the request line, the size, the form
of the target, the grammar of the fields, their meaning. So a faulty head gets the same answer however its
bytes arrive.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from trioasgi.http.abnf import TOKEN, TOKEN_CHARS
from trioasgi.http1.rule import RequestError, Rule
from trioasgi.patterns import compiled_later

if TYPE_CHECKING:
    from trioasgi.http.limits import Limits

TARGET_CHARS: Final = bytes(
    char if 0x21 <= char <= 0x7E and char != ord("#") else ord(" ") for char in range(256)
)
"""A table for `bytes.translate`: it changes each character that a target may not have into a space.

A target may have all visible ASCII characters but `#`. RFC 3986 allows fewer, but browsers send the others
too.
"""

# Only a faulty or a slow request line needs it: `re` compiles it when it is first used, and keeps it.
_ANY_REQUEST_LINE: Final = rb"(" + TOKEN + rb") ([^\x00-\x20\x7f]+) HTTP/([0-9]\.[0-9])"


_METHOD: Final = compiled_later(rb"[" + TOKEN_CHARS + rb"]*")
_TARGET: Final = compiled_later(rb"[^\x00-\x20\x7f]*")
_VERSION_SO_FAR: Final = compiled_later(rb"(?:HTTP/[0-9]\.[0-9]\r?|HTTP/[0-9]\.|HTTP/[0-9]|HTTP/?|HTT|HT|H)?")
"""The parts of a request line, as far as they have come."""

# The methods that llhttp knows, so all codecs serve the same: RFC 9110, 5789, 4918, 3253, 5842, 3744, 4791,
# UPnP and QUERY.
_METHODS: Final = """
    GET POST HEAD PUT DELETE OPTIONS PATCH TRACE QUERY
    PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH BIND REBIND UNBIND ACL REPORT MKACTIVITY CHECKOUT
    MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK UNLINK SOURCE
"""
METHODS: Final[dict[bytes, str]] = {name.encode(): name for name in _METHODS.split()}

VERSIONS: Final[dict[bytes, str]] = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}


_SPACE: Final = 32

_AROUND_TARGET: Final = 64
"""More bytes than the method, the version and the spaces of any request line that is served."""


def longest_line(limits: Limits) -> int:
    """The most bytes that a request line may have."""
    return limits.target + _AROUND_TARGET


def longest_head(limits: Limits) -> int:
    """The most bytes that a head may have, and that an incomplete head may take in memory."""
    return longest_line(limits) + limits.header_bytes


class _Part(Enum):
    """The part that the next byte belongs to. A space ends a part, an LF ends the line."""

    METHOD = auto()
    TARGET = auto()
    VERSION = auto()
    FIELDS = auto()


class HeadBeginning:
    """Checks the beginning of an incomplete head: is it already too long, or no head at all?

    A head may come byte by byte. This keeps its position, and so checks each byte once.
    """

    __slots__ = ("_at", "_limits", "_longest", "_part", "_start", "seen")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._longest = longest_line(limits)
        self._part = _Part.METHOD
        self._start = 0  # of the part
        self._at = 0
        self.seen = 0
        """How many bytes the head had at the last check."""

    def check(self, head: bytes | bytearray) -> None:
        """Check the bytes that were added to `head`. Raises RequestError for the first broken rule."""
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
        """The rule that the first `size` bytes of a line break, whatever follows them."""
        # Bytes behind the longest allowed line need no check.
        end = min(size, self._longest + 1)
        while self._at < end:
            if not self._advance(head, end):
                return Rule.REQUEST_LINE
        return Rule.TARGET_LENGTH if size > self._longest else None

    def _advance(self, head: bytes | bytearray, end: int) -> bool:
        """Go on to the end of the part, or to `end`. False if this is no request line."""
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
    """The rule that a complete request line breaks. It is given without its LF, and is not too long."""
    match = re.fullmatch(_ANY_REQUEST_LINE, line.removesuffix(b"\r"))
    if match is None:
        return Rule.REQUEST_LINE
    method, target, version = match.groups()
    if b"HTTP/" + version not in VERSIONS:
        return Rule.VERSION
    if not line.endswith(b"\r"):
        return Rule.REQUEST_LINE
    if method not in METHODS:
        return Rule.CONNECT if method == b"CONNECT" else Rule.METHOD
    if len(target) > limits.target:
        return Rule.TARGET_LENGTH
    return Rule.TARGET_FORM if target.translate(TARGET_CHARS) != target else None
