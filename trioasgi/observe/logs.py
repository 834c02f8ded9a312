"""Sets up the standard library's logging for the server's own two loggers, and for uvicorn's."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from .lines import LineFormatter, Style
from .text import cut, tidy, writable
from .uvicorn_loggers import forget_uvicorn_records, print_uvicorn_records

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class ServerLogger(logging.Logger):
    """A logger of the server. An application that configures logging does not silence it by accident.

    `dictConfig()` and `fileConfig()` disable all loggers that they do not name, unless they are told not to.
    After they have closed our handler, the logger refuses that once. Otherwise `disabled = True` disables it.

    The server logs in places where nothing may fail. So errors while a record is made or handled are written
    to stderr: those of a filter that needs a request's context variable, for example, or of an exception's
    `__str__`.
    """

    _disabled = False
    _is_spared = False

    @property
    def disabled(self) -> bool:
        """Whether records are dropped."""
        return self._disabled

    @disabled.setter
    def disabled(self, value: bool) -> None:
        self._disabled = value and not self._is_spared
        self._is_spared = False

    def spare(self) -> None:
        """Refuse to be disabled, once."""
        self._is_spared = True

    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802 - logging's name
        """As `logging.Logger.makeRecord`; without the program's record factory where that fails."""
        try:
            return super().makeRecord(*args, **options)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - it may be anything that the program does
            _tell_failure(error, "a record's fields may be missing")
            name, level, path, line, message, arguments, exc_info, function, extra = args[:9]
            record = logging.LogRecord(name, level, path, line, message, arguments, exc_info, function)
            record.__dict__.update(extra or {})
            return record

    def handle(self, record: logging.LogRecord) -> None:
        """As `logging.Logger.handle`; raises nothing but KeyboardInterrupt."""
        try:
            super().handle(record)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - as above
            _tell_failure(error, f"not logged: {_message(record)}")


def _tell_failure(error: BaseException, what: str) -> None:
    """Write to stderr what has failed in the program's logging, and where. Of `error` only `__str__` is
    called.
    """
    try:
        said = str(error)
    except BaseException:  # noqa: BLE001 - an application's own class
        said = "(it cannot be shown)"
    frames = "".join(traceback.format_tb(error.__traceback__))
    text = f"{frames}{type(error).__name__}: {said}\nthe logging of this program failed; {what}\n"
    with suppress(OSError, ValueError, AttributeError):  # there may be no stderr, or nobody who reads it
        sys.stderr.write(writable(tidy(cut(text)), sys.stderr))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except BaseException:  # noqa: BLE001 - what is logged may be anything
        return str(record.msg)


def own_logger(name: str) -> ServerLogger:
    """The logger of this name. If it exists already, it becomes a ServerLogger."""
    logger = logging.getLogger(name)
    if not isinstance(logger, ServerLogger):
        was_disabled = logger.__dict__.pop("disabled", False)
        logger.__class__ = ServerLogger
        logger.disabled = was_disabled
    assert isinstance(logger, ServerLogger)
    return logger


def _tidy_record(record: logging.LogRecord) -> bool:
    """A filter that passes all records, and makes their messages safe for any formatter: each looks like one
    entry.
    """
    try:
        message = record.getMessage()
    except Exception as error:  # noqa: BLE001 - an application's exception has a __repr__ of its own
        message = f"{record.msg} (with what cannot be shown: {type(error).__name__})"
        record.msg, record.args = message, None
    if not message.isprintable():
        record.msg, record.args = tidy(message), None
    return True


own_logger(SERVER).addFilter(_tidy_record)


class LogSettings(msgspec.Struct, frozen=True):
    """The settings of the log."""

    level: str | None = None
    """A level by its name, `critical` to `trace`; None: `info`, or what `log_config` says."""
    use_colors: bool | None = None
    """None: on a terminal that has them."""
    log_config: str | dict[str, Any] = ""
    """The path of a file, or what `logging.config.dictConfig()` takes; empty text: our own handlers."""
    origin: str = "Python"
    """Where `log_config` was given, for messages."""
    directory: str = ""
    """Where classes that `log_config` names are imported from, besides `sys.path`."""
    access_log: bool = True
    """Are lines that the application logs to uvicorn's access log printed?"""


def configure_logging(settings: LogSettings, *, show_pid: bool = False) -> None:
    """Send the server's log to stderr and its access log to stdout; or configure logging as
    `settings.log_config` says.

    Without `log_config` this changes only the loggers "trioasgi" and "trioasgi.access", and uvicorn's if no
    handler of the program gets their records. It does not change the root logger, the application's loggers,
    or other handlers of the server's two. A second call replaces what the first one did. `show_pid` puts the
    process's id on each line, for workers that share a terminal. With an empty dict as `log_config` records
    go to the program's own handlers. Raises ConfigError for an unusable `log_config`.
    """
    logging.addLevelName(TRACE, "TRACE")
    server, access = own_logger(SERVER), own_logger(ACCESS)
    for logger in (server, access):
        for handler in [*logger.handlers]:
            if isinstance(handler, LineHandler):
                logger.removeHandler(handler)
    forget_uvicorn_records(server.level)
    level = None if settings.level is None else _LEVELS[settings.level]
    if settings.log_config == "":
        level = logging.INFO if level is None else level
        _use_own_handlers(server, access, settings.use_colors, show_pid=show_pid)
        of_access = _own_handler(access) if settings.access_log else logging.NullHandler()
        print_uvicorn_records(_own_handler(server), of_access, level)
    else:
        _use_log_config(server, access, settings)
    if level is not None:
        server.setLevel(level)
        access.setLevel(level)


def _use_own_handlers(
    server: logging.Logger, access: logging.Logger, use_colors: bool | None, *, show_pid: bool
) -> None:
    previous = None
    for logger, stream in ((access, sys.stdout), (server, sys.stderr)):
        if stream is not None:  # as under pythonw.exe
            handler = _handler(stream, use_colors, show_pid=show_pid)
            handler.earlier, previous = previous, handler
            logger.addHandler(handler)
        # Else the application's own root handler would print each line a second time.
        logger.propagate = False


def _own_handler(logger: logging.Logger) -> LineHandler | None:
    return next((handler for handler in logger.handlers if isinstance(handler, LineHandler)), None)


def _use_log_config(server: logging.Logger, access: logging.Logger, settings: LogSettings) -> None:
    from .logconfig import apply_log_config  # few servers have one

    for logger in (server, access):
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    if not settings.log_config:
        return
    apply_log_config(
        settings.log_config,
        origin=settings.origin,
        directory=settings.directory,
        use_colors=settings.use_colors,
    )
    for logger in (server, access):
        logger.disabled = False


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


def _handler(stream: TextIO, use_colors: bool | None, *, show_pid: bool) -> LineHandler:
    style = Style.TERMINAL if _is_terminal(stream) else Style.FILE
    formatter = LineFormatter(style, colors=wants_colors(stream, use_colors), show_pid=show_pid)
    return LineHandler(stream, formatter)


class LineHandler(logging.StreamHandler[TextIO]):
    """The server's own handler. A second `configure_logging` recognises it by its class, and replaces it.

    It also takes formatted lines, and holds them back to write many at once. Once the application has
    configured handlers on the root logger, records go to those.
    """

    def __init__(self, stream: TextIO, formatter: LineFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self.line_formatter = formatter
        self.is_terminal = _is_terminal(stream)
        self.earlier: LineHandler | None = None
        """Its held lines are older, so they are written first."""
        self._held: deque[str] = deque()
        self._is_closed = False
        self._failed = 0
        """How many writes have failed in a row."""
        self._fault: OSError | None = None

    @property
    def is_replaced(self) -> bool:
        """Whether the application's handlers have taken over."""
        return self._is_closed and bool(logging.getLogger().handlers)

    def close(self) -> None:
        """Called by `dictConfig()` and `fileConfig()` when they replace what was configured before."""
        super().close()
        self._is_closed = True
        for name in (SERVER, ACCESS):
            own_logger(name).spare()

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's entry, with nothing that the stream's encoding lacks."""
        return writable(super().format(record), self.stream)

    def hold(self, line: str) -> int:
        """Keep a line for `write_held`, and return how many there are; from any thread."""
        self._held.append(line)
        return len(self._held)

    def write_held(self) -> None:
        """Write the lines that are held back; from any thread."""
        lines = []
        with suppress(IndexError):
            while True:
                lines.append(self._held.popleft())
        if lines:
            self._write_lines(lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's entry at once, behind what was logged before it."""
        for handler in (self.earlier, self):
            if handler is not None and handler._held:
                handler.write_held()
        if self.is_replaced:
            logging.getLogger().callHandlers(record)
            return
        failed = self._failed
        super().emit(record)
        if failed and failed == self._failed:
            self._report_failures()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Called with the exception that `emit` has met: of what is no mistake in the call, no traceback."""
        if not self._note_failure(sys.exc_info()[1]):
            super().handleError(record)

    def _write_lines(self, lines: list[str]) -> None:
        try:
            with self.lock or nullcontext():
                self.stream.write("\n".join([*lines, ""]))
                self.flush()
        except (OSError, ValueError) as error:
            self._note_failure(error)
        else:
            if self._failed:
                self._report_failures()

    def _note_failure(self, error: BaseException | None) -> bool:
        """Whether `error` says that the stream cannot be written to; then act on it."""
        if isinstance(error, BrokenPipeError) or (isinstance(error, ValueError) and self.stream.closed):
            # Nobody will read the pipe any more (`trioasgi ... | head`).
            for name in (SERVER, ACCESS):
                logging.getLogger(name).removeHandler(self)
        elif isinstance(error, OSError):
            # The disk is full, or the terminal is gone. Later writes may work again.
            self._failed += 1
            self._fault = error
        else:
            return False
        return True

    def _report_failures(self) -> None:
        failed, self._failed = self._failed, 0
        text = f"lines may be missing above: {failed} attempts to write to the log failed: {self._fault}"
        line = self.line_formatter.format_line(time.time(), logging.WARNING, text)
        self._write_lines([writable(line, self.stream)])
