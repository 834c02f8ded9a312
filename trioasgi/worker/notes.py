"""What a rehearsal finds, on its way to the parent (`process/rehearsal.py`)."""

from __future__ import annotations

import logging
import os
import socket
import sysconfig
import traceback
from typing import TYPE_CHECKING

from trioasgi.errors import leaves_of
from trioasgi.findings import Finding, Outcome
from trioasgi.observe.text import cut, tidy
from trioasgi.observe.tracebacks import is_the_users, user_traceback
from trioasgi.process.rehearsal import Began, Found, as_line, last_lines

if TYPE_CHECKING:
    from trioasgi.process.rehearsal import Report

_LONGEST_REASON = 1000
_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
"""Where code lies that the application has not written itself, as a rule."""


class Notes:
    """Sends reports, and collects the warnings of the server's log, which explain them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._process = os.getpid()
        self._log = _Warnings()
        self.under_way = ("options", "options")
        """The check, and what it is about."""

    def send(self, report: Report) -> None:
        """Send a report. If the parent is gone, this process is about to be ended.

        A process that the application has forked, and that goes on here as well, reports nothing.
        """
        if os.getpid() != self._process:
            return
        try:
            self._sock.sendall(as_line(report))
        except OSError:
            pass

    def collect_log(self) -> None:
        """Collect the server's warnings from now on. They are not written anywhere else."""
        logger = logging.getLogger("trioasgi")
        logger.addHandler(self._log)
        logger.setLevel(logging.WARNING)
        logger.propagate = False

    def begin(self, check: str, about: str) -> None:
        """Report that a check begins, in case that this process does not survive it."""
        self.under_way = (check, about)
        self._log.entries.clear()
        self.send(Began(check, about))

    def succeed(self, check: str, about: str, reason: str) -> None:
        """Report a success, or a warning if the server has logged one meanwhile."""
        warned = self._log.take()
        if warned is None:
            self.found(Finding(check=check, outcome=Outcome.OK, about=about, reason=reason))
            return
        first, _, rest = warned.partition("\n")
        self.found(
            Finding(
                check=check,
                outcome=Outcome.WARNING,
                about=about,
                reason=cut(f"{reason}, with a warning: {first}", _LONGEST_REASON),
                fix="correct what the warning names",
                detail=last_lines(rest),
            )
        )

    def fail(
        self, error: BaseException, check: str, about: str, fix: str, *, text: str | None = None
    ) -> None:
        """Report a failure. `text` is what is said of the error, if not its own message: the reason in its
        first line, and the details.
        """
        reason, _, rest = tidy(str(error) if text is None else text).partition("\n")
        if reason.endswith(":") and rest:  # a framework's traceback: its last line says what it is
            reason = f"{reason} {rest.strip().splitlines()[-1].strip()}"
        self.found(
            Finding(
                check=check,
                outcome=Outcome.FAILED,
                about=about,
                file=_file_of(error),
                reason=cut(reason, _LONGEST_REASON),
                fix=fix,
                detail=last_lines(rest) or self.logged(),
            )
        )

    def found(self, finding: Finding) -> None:
        """Report a finding."""
        self.send(Found(finding))

    def logged(self) -> str | None:
        """The end of what the server has warned of since the check has begun."""
        warned = self._log.take()
        return None if warned is None else last_lines(warned)


class _Warnings(logging.Handler):
    """Keeps the last warnings, each with the application's part of the traceback."""

    _MOST = 20

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.entries: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """As of `logging.Handler`."""
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text = f"{text}\n{user_traceback(record.exc_info[1])}"
        except Exception:  # noqa: BLE001 - methods of the application's exception may fail
            text = "a warning that cannot be shown"
        self.entries.append(text)
        del self.entries[: -self._MOST]

    def take(self) -> str | None:
        """All of them in one text, and forget them. None if there is none."""
        text = "\n".join(self.entries)
        self.entries.clear()
        return text or None


def _file_of(error: BaseException) -> str | None:
    """The application's file and line that the error comes from, if it comes from one."""
    if error.__cause__ is None:
        return None
    cause = next(leaves_of(error.__cause__), error.__cause__)
    if isinstance(cause, SyntaxError) and cause.filename:
        return f"{cause.filename}:{cause.lineno}"
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if is_the_users(f.filename)]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    last = next(reversed(own or frames), None)
    return None if last is None else f"{last.filename}:{last.lineno}"
