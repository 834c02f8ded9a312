"""Setting up the standard library's logging for the server's own two loggers, and for no others."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import nullcontext
from enum import Enum
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trioasgi.config import Config

TRACE = 5
"""Below DEBUG: every event of every connection."""

SERVER = "trioasgi"
ACCESS = "trioasgi.access"

_LEVELS = {
    "critical": logging.CRITICAL,
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}


class Style(Enum):
    """How a line looks; decided once for each handler."""

    FILE = "file"
    """Full date and time with the zone's offset: read later, perhaps elsewhere."""
    TERMINAL = "terminal"
    """The time of day: read now."""


def configure_logging(config: Config, *, show_pid: bool = False) -> None:
    """Send the server's log to stderr and its access log to stdout, at `config.log_level`.

    Only the loggers "trioasgi" and "trioasgi.access" are touched: the root logger, the application's loggers
    and any handler that somebody else has put on these two stay as they are. May be called again, and then
    replaces what it did before. `show_pid` puts the process's id on each line, for workers that share a
    terminal.
    """
    logging.addLevelName(TRACE, "TRACE")
    level = _LEVELS[config.log_level]
    for name, stream in ((SERVER, sys.stderr), (ACCESS, sys.stdout)):
        logger = logging.getLogger(name)
        for handler in [*logger.handlers]:
            if isinstance(handler, LineHandler):
                logger.removeHandler(handler)
        if stream is not None:  # as under pythonw.exe
            logger.addHandler(_handler(stream, config.use_colors, show_pid=show_pid))
        logger.setLevel(level)
        # Else the application's own root handler would print each line a second time.
        logger.propagate = False


def wants_colors(stream: TextIO, use_colors: bool | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether to write ANSI colours to `stream`.

    The option decides if it was given; then NO_COLOR (https://no-color.org), FORCE_COLOR
    (https://force-color.org), and at last whether the stream is a terminal that knows colours.
    """
    if use_colors is not None:
        return use_colors
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    if environ.get("TERM") == "dumb" or not _is_terminal(stream):
        return False
    # Windows: the old console shows the codes themselves; these names are set by those that do not.
    return sys.platform != "win32" or not environ.keys().isdisjoint(("WT_SESSION", "ANSICON", "TERM"))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _handler(stream: TextIO, use_colors: bool | None, *, show_pid: bool) -> logging.Handler:
    style = Style.TERMINAL if _is_terminal(stream) else Style.FILE
    formatter = LineFormatter(style, colors=wants_colors(stream, use_colors), show_pid=show_pid)
    return LineHandler(stream, formatter)


class LineHandler(logging.StreamHandler[TextIO]):
    """A handler of ours, so that a second `configure_logging` knows what it may replace.

    It also takes lines that were formatted already.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self.line_formatter = formatter
        self.is_terminal = _is_terminal(stream)

    def write_lines(self, lines: list[str]) -> None:
        """Write whole lines, at once."""
        try:
            with self.lock or nullcontext():
                self.stream.write("\n".join([*lines, ""]))
                self.flush()
        except (OSError, ValueError):
            # Nobody reads any more, or the disk is full, or the stream was closed: as handleError() has it.
            logging.getLogger(ACCESS).removeHandler(self)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Stop writing once nobody reads (`trioasgi … | head`), rather than print a traceback per request."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            logging.getLogger(record.name).removeHandler(self)
            return
        super().handleError(record)


class LineFormatter(logging.Formatter):
    """`TIME LEVEL    [pid] message`, the message's further lines and any traceback below it."""

    _COLORS = (
        (logging.CRITICAL, "\x1b[1;31m"),
        (logging.ERROR, "\x1b[31m"),
        (logging.WARNING, "\x1b[33m"),
        (logging.INFO, "\x1b[32m"),
        (logging.DEBUG, "\x1b[36m"),
    )
    _DIM = "\x1b[2m"
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
        """Return the whole entry, without a line end."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        record.message = record.getMessage()
        return self.formatMessage(record)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002
        """Return the local time of the record, as the style has it."""
        return self._time(record.created)

    def _time(self, now: float) -> str:
        second = int(now)
        if second != self._second:  # strftime costs more than all the rest of a line
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
            stamp = f"{self._DIM}{stamp}{self._RESET}"
        return f"{stamp} {name} {self._pid}{message}"

    def _name(self, level: int) -> str:
        name = self._names.get(level)
        if name is None:
            name = logging.getLevelName(level).ljust(self._WIDTH)
            if self._colors:
                name = f"{self._color(level)}{name}{self._RESET}"
            self._names[level] = name
        return name

    def _color(self, level: int) -> str:
        return next((code for least, code in self._COLORS if level >= least), self._DIM)
