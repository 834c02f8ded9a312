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
    """The default fields. A field that the application sends itself takes the place of ours, and a field of
    `extra` that of Date and Server.
    """

    __slots__ = ("_date", "_others", "names")

    def __init__(self, *, date: bool, server: bool, extra: Sequence[Header] = ()) -> None:
        own = {name for name, _ in extra}
        self._date = date and b"date" not in own
        has_server = server and b"server" not in own
        self._others = (*([(b"server", b"trioasgi")] if has_server else []), *extra)
        self.names = frozenset({b"date", b"server", *own})
        """In lower case: fields of these names may be ours."""

    def at(self, now: float) -> tuple[Header, ...]:
        """All of them, in a response that is made `now` (seconds since the epoch)."""
        return ((b"date", http_date(now)), *self._others) if self._date else self._others


def http_date(now: float) -> bytes:
    """Seconds since the epoch as an IMF-fixdate (RFC 9110, 5.6.7).

    Not by strftime, which speaks the language of the application's locale; nor by `email.utils`, which takes
    longer to load than any module of this package.
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(now)
    clock = b"%02d:%02d:%02d" % (hour, minute, second)
    return b"%b, %02d %b %04d %b GMT" % (_DAYS[weekday], day, _MONTHS[month - 1], year, clock)
