"""What the encoder has tables for, compared with the standard library."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

import pytest

from trioasgi.http1.encoder import STATUS_LINES, http_date


@pytest.mark.parametrize("month", range(12))
def test_a_date_is_an_imf_fixdate(month: int) -> None:
    for day in range(7):
        now = 1_700_000_000 + month * 30 * 86_400 + day * 86_400 + month * 3_607 + 0.9
        assert http_date(now) == formatdate(now, usegmt=True).encode()


def test_status_lines() -> None:
    assert len(STATUS_LINES) == 1000
    for status in HTTPStatus:
        assert STATUS_LINES[status] == f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    assert STATUS_LINES[299] == b"HTTP/1.1 299 Unknown\r\n"
