"""Fixtures of several folders; a `conftest.py` takes them in by importing them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.http import CODECS


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    """Each test of the protocol runs on both codecs."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _nothing_fails(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client or an application does may end up as a failure of the server's own."""
    with caplog.at_level(logging.DEBUG, logger="trioasgi"):
        yield
    messages = [record.getMessage() for record in caplog.get_records("call")]
    assert not [message for message in messages if "failed; " in message]
