"""The phases of a response, and the check of its Content-Length. No I/O; shared by all versions of HTTP.

- The application gives the response piece by piece. It is COMPLETE when its last byte has left, not when that
  byte was given.
- While nothing of it has left, the server may answer in the application's place: REFUSED. Then no head was
  given,
  or the head can be taken back.
- Otherwise the server can only cut it: FAILED. The client can tell that it is incomplete. A response whose
  peer
  goes away has FAILED too.
- COMPLETE and FAILED are final. A refusal may still fail to leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from trioasgi.errors import BodyLengthError


class ResponsePhase(Enum):
    """How far a response has come."""

    NOT_STARTED = "no head yet"
    STARTED = "head given, body under way"
    ENDING = "the whole response has been given, but has not left yet"
    COMPLETE = "the whole response has been given, and has left"
    REFUSED = "the server has answered in the application's place"
    FAILED = "no more can be sent: the peer has gone, or the response was cut"


_NOT_STARTED: Final = ResponsePhase.NOT_STARTED
_STARTED: Final = ResponsePhase.STARTED
_ENDING: Final = ResponsePhase.ENDING
_COMPLETE: Final = ResponsePhase.COMPLETE
_REFUSED: Final = ResponsePhase.REFUSED
_FAILED: Final = ResponsePhase.FAILED

TRANSITIONS: Final[Mapping[ResponsePhase, Mapping[ResponsePhase, str]]] = {
    _NOT_STARTED: {
        _STARTED: "the head is given",
        _COMPLETE: "a WebSocket is accepted",
        _REFUSED: "the server answers in its place",
        _FAILED: "the peer has gone",
    },
    _STARTED: {
        _ENDING: "the last piece is given",
        _COMPLETE: "the last piece is given, and has left",
        _REFUSED: "the head is taken back, and the server answers",
        _FAILED: "it is cut, or the peer has gone",
    },
    _ENDING: {_COMPLETE: "it has left", _FAILED: "the peer has gone, or takes nothing"},
    _COMPLETE: {},
    _REFUSED: {_FAILED: "the answer cannot leave"},
    _FAILED: {},
}
"""The phases that may follow each phase, and when they do."""

PARTIAL: Final = frozenset({_STARTED, _ENDING, _FAILED})
"""The phases in which the peer may have received a part of the response."""

BODILESS: Final = frozenset({204, 205, 304})
"""Status codes of responses that never have content (RFC 9110, 15.3.5, 15.3.6, 15.4.5)."""


class Response:
    """The state of one response.

    `status` is 0 until the head is given. `sent` counts the bytes of its body that were given.
    """

    __slots__ = ("_left", "phase", "sent", "status")

    phase: ResponsePhase
    status: int
    sent: int
    _left: int | None
    """Bytes of the Content-Length that are still missing; None without a Content-Length."""

    @property
    def missing(self) -> int | None:
        """Bytes of the Content-Length that were not given yet; None without a Content-Length, or a body."""
        return self._left

    @property
    def over(self) -> bool:
        """Is the response complete, refused or failed, so that nothing more can be given?"""
        phase = self.phase
        return phase is _COMPLETE or phase is _REFUSED or phase is _FAILED

    @property
    def can_fail(self) -> bool:
        """Is it incomplete, so that the server can still refuse or cut it?"""
        phase = self.phase
        return phase is _NOT_STARTED or phase is _STARTED

    def count(self, size: int, more: bool) -> None:
        """Count a piece of the body, and check it against the Content-Length (RFC 9110, 8.6).

        Raises BodyLengthError. Then the piece is not counted.
        """
        left = self._left
        if left is not None:
            left -= size
            if left and (left < 0 or not more):
                raise self._wrong_length(left)
            self._left = left
        self.sent += size

    def check_length(self, size: int, more: bool) -> None:
        """Raise BodyLengthError as `count` would for such a piece, but count nothing."""
        left, sent = self._left, self.sent
        try:
            self.count(size, more)
        finally:
            self._left, self.sent = left, sent

    def _wrong_length(self, left: int) -> BodyLengthError:
        if left < 0:
            return BodyLengthError(f"the response body is {-left} bytes longer than its Content-Length")
        length = self.sent + (self._left or 0)
        return BodyLengthError(f"the response body ended {left} bytes before its Content-Length of {length}")
