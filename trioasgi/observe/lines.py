"""The format of the server's log entries. A message cannot look like a second entry."""

from __future__ import annotations

import logging
import os
import time
from enum import Enum

from .text import cut, tidy


class Style(Enum):
    """The style of a handler's lines."""

    FILE = "file"
    """Full date and time with the zone's offset: read later, perhaps elsewhere."""
    TERMINAL = "terminal"
    """The time of day: read now."""


_COLORS = (
    (logging.CRITICAL, "\x1b[1;31m"),
    (logging.ERROR, "\x1b[31m"),
    (logging.WARNING, "\x1b[33m"),
    (logging.INFO, "\x1b[32m"),
    (logging.DEBUG, "\x1b[36m"),
)
_DIM = "\x1b[2m"


def level_color(level: int) -> str:
    """The colour code for a level's name."""
    return next((code for least, code in _COLORS if level >= least), _DIM)


class LineFormatter(logging.Formatter):
    """`TIME LEVEL    [pid] message`, the message's further lines and any traceback below it."""

    _RESET = "\x1b[0m"
    _WIDTH = len("CRITICAL")

    def __init__(self, style: Style, *, colors: bool = False, show_pid: bool = False) -> None:
        super().__init__()
        self._look = style
        self._colors = colors
        self._pid = f"[{os.getpid()}] " if show_pid else ""
        self._names: dict[int, str] = {}
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the whole entry, without a line end. Its size is bounded, and no part looks like another
        entry.
        """
        record.message = tidy(cut(record.getMessage()))
        entry = [self.formatMessage(record)]
        if record.exc_info and not record.exc_text:
            record.exc_text = cut(self.formatException(record.exc_info))
        below = (record.exc_text, record.stack_info)
        entry.extend(tidy("\n" + cut(text))[1:] for text in below if text)
        return "\n".join(entry)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002
        """Return the local time of the record, as the style has it."""
        return self._time(record.created)

    def _time(self, now: float) -> str:
        second = int(now)
        if second != self._second:  # strftime is slow, so once a second
            form = "%H:%M:%S" if self._look is Style.TERMINAL else "%Y-%m-%dT%H:%M:%S%z"
            self._stamp = time.strftime(form, time.localtime(second))
            self._second = second
        if self._look is Style.TERMINAL:
            return self._stamp
        clock, offset = self._stamp[:19], self._stamp[19:]
        return f"{clock}.{int((now - second) * 1000):03d}{offset}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the standard library's name
        """Return the first part of the entry: everything but tracebacks."""
        return self.format_line(record.created, record.levelno, record.message)

    def format_line(self, now: float, level: int, message: str) -> str:
        """Return a line without its end: `message` was said at `now`, in seconds since the epoch."""
        stamp = self._time(now)
        name = self._name(level)
        if self._colors:
            stamp = f"{_DIM}{stamp}{self._RESET}"
        return f"{stamp} {name} {self._pid}{message}"

    def _name(self, level: int) -> str:
        name = self._names.get(level)
        if name is None:
            name = logging.getLevelName(level).ljust(self._WIDTH)
            if self._colors:
                name = f"{level_color(level)}{name}{self._RESET}"
            self._names[level] = name
        return name
