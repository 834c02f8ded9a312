"""The fields that the server adds to every response: Date (RFC 9110, 6.6.1), Server (10.2.4), and those of
`--header`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioasgi.http.request import Header

_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_MONTHS: Final = (
    *(b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun"),
    *(b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"),
)


class DefaultFields:
    """The default fields. A field of `extra` replaces Date or Server. A field that the application sends
    replaces any of them.
    """

    __slots__ = ("_date", "_others", "names")

    def __init__(self, *, date: bool, server: bool, extra: Sequence[Header] = ()) -> None:
        own = {name for name, _ in extra}
        self._date = date and b"date" not in own
        has_server = server and b"server" not in own
        self._others = (*([(b"server", b"trioasgi")] if has_server else []), *extra)
        self.names = frozenset({b"date", b"server", *own})
        """The names of all default fields, in lower case."""

    def at(self, now: float) -> tuple[Header, ...]:
        """All default fields for a response that is made at `now`, in seconds since the epoch."""
        return ((b"date", http_date(now)), *self._others) if self._date else self._others


def http_date(now: float) -> bytes:
    """Seconds since the epoch as an IMF-fixdate (RFC 9110, 5.6.7).

    `time.strftime` would use the language of the locale, and `email.utils` is slow to import.
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(now)
    clock = b"%02d:%02d:%02d" % (hour, minute, second)
    return b"%b, %02d %b %04d %b GMT" % (_DAYS[weekday], day, _MONTHS[month - 1], year, clock)
