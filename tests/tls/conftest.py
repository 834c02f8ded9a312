"""Shared by the tests of this room."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Certificates, make_certificates
from tests.support.redirecting import fill_directory


class Lines(logging.Handler):
    """Collects messages of the logger "trioasgi", which does not hand them on to the root logger."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.levelname} {record.getMessage()}")


@pytest.fixture
def lines() -> Iterator[list[str]]:
    logger = logging.getLogger("trioasgi")
    level, handler = logger.level, Lines()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The folder of an ACME program, with challenges."""
    directory = tmp_path / "acme"
    fill_directory(directory)
    return directory
