"""The default fields of a response."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from trioasgi.http.fields import DefaultFields, http_date

NOW = 1_700_000_000


@pytest.mark.parametrize("month", range(12))
def test_a_date_is_an_imf_fixdate(month: int) -> None:
    for day in range(7):
        now = 1_700_000_000 + month * 30 * 86_400 + day * 86_400 + month * 3_607 + 0.9
        assert http_date(now) == formatdate(now, usegmt=True).encode()


@pytest.mark.parametrize("date", [True, False])
@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize(
    "extra",
    [[], [(b"x-a", b"1")], [(b"server", b"own")], [(b"date", b"own")]],
    ids=["none", "a", "server", "date"],
)
def test_which_there_are(date: bool, server: bool, extra: list[tuple[bytes, bytes]]) -> None:
    own = [name for name, _ in extra]
    expected = [(b"date", http_date(NOW))] if date and b"date" not in own else []
    expected += [(b"server", b"trioasgi")] if server and b"server" not in own else []
    fields = DefaultFields(date=date, server=server, extra=extra)
    assert fields.at(NOW) == (*expected, *extra)
    assert fields.names == {b"date", b"server", *own}
