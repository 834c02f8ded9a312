"""Formatters for log configurations that were written for uvicorn: its fields, from our records."""

from __future__ import annotations

import copy
import http
import logging
import sys
from typing import Literal

from .lines import level_color
from .text import tidy

_RESET = "\x1b[0m"


class DefaultFormatter(logging.Formatter):
    """Adds the field `levelprefix`: the level, a colon, and blanks up to the message."""

    def __init__(
        self,
        fmt: str | None = None,
        datefmt: str | None = None,
        style: Literal["%", "{", "$"] = "%",
        use_colors: bool | None = None,
    ) -> None:
        super().__init__(fmt, datefmt, style)
        stream = sys.stderr
        self._has_colors = bool(stream and stream.isatty()) if use_colors is None else use_colors

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry, as the format has it."""
        record = copy.copy(record)
        self.add_fields(record)
        record.msg, record.args = tidy(record.getMessage()), None
        return super().format(record)

    def formatException(self, ei: logging._SysExcInfoType) -> str:  # noqa: N802 - the standard library's name
        """Return the traceback."""
        return tidy("\n" + super().formatException(ei))[1:]

    def add_fields(self, record: logging.LogRecord) -> None:
        """Set what the format may name, on a copy of the record."""
        name = self.colored(record.levelname, level_color(record.levelno))
        record.levelprefix = f"{name}:" + " " * (8 - len(record.levelname))

    def colored(self, text: str, code: str) -> str:
        """`text` in that colour, where there are colours."""
        return f"{code}{text}{_RESET}" if self._has_colors else text


class AccessFormatter(DefaultFormatter):
    """Adds the fields `client_addr`, `request_line` and `status_code`, which has its phrase behind it, and
    ` cut` if the response ended before it was whole.
    """

    def add_fields(self, record: logging.LogRecord) -> None:
        super().add_fields(record)
        record.client_addr = record.request_line = record.status_code = "-"
        match record.args:
            case (client, method, target, version, int(status), *_):
                record.client_addr = client
                record.request_line = f"{method} {target} HTTP/{version}"
                mark = " cut" if getattr(record, "cut", False) else ""
                record.status_code = f"{status} {_phrase(status)}".rstrip() + mark


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""
