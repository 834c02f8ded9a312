"""The encoder's tables, compared with the standard library, and its default fields."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

import pytest

from trioasgi.http.fields import DefaultFields
from trioasgi.http1.encoder import STATUS_LINES, HeadEncoder


def test_status_lines() -> None:
    newer = {  # of RFC 9110: Python has them since 3.13
        413: "Content Too Large",
        414: "URI Too Long",
        416: "Range Not Satisfiable",
        422: "Unprocessable Content",
    }
    for status in HTTPStatus:
        phrase = newer.get(status, status.phrase)
        assert STATUS_LINES[status] == f"HTTP/1.1 {status.value} {phrase}\r\n".encode()
    assert STATUS_LINES[299] == b"HTTP/1.1 299 Unknown\r\n"


def test_the_date_is_made_once_a_second_though_no_two_responses_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[float] = []
    now = 1_000_000.0

    def counted(second: float) -> time.struct_time:
        made.append(second)
        return gmtime(second)

    gmtime = time.gmtime
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("time.gmtime", counted)
    heads = HeadEncoder(DefaultFields(date=True, server=True, extra=[(b"x-extra", b"1")]))
    for second in (0, 1, -5):
        now = 1_000_000.0 + second
        for number in range(20):
            pieces, _, _ = heads.encode(200, ((b"x-request-id", b"%d" % number),))
            assert b"".join(pieces) == (
                b"HTTP/1.1 200 OK\r\ndate: %b\r\nserver: trioasgi\r\nx-extra: 1\r\nx-request-id: %d\r\n"
                % (formatdate(now, usegmt=True).encode(), number)
            )
    assert made == [1_000_000, 1_000_001, 999_995]
