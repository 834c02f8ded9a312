"""What an exception of the user's own code says of itself: its summary and its traceback, as text."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterator

from .text import cut

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_DEMO = os.path.join(_PACKAGE, "demo")  # an application, if one of ours
_LONGEST_TRACEBACK = 12_000
"""Characters; a RecursionError's would fill the screen several times, and it has to fit into a report."""

_LONGEST_SUMMARY = 1000
"""Characters of an exception's message beside its traceback, which has it too."""


def summary(error: BaseException) -> str:
    """The line that a traceback ends with, bounded."""
    return cut(traceback.format_exception_only(error)[-1].strip(), _LONGEST_SUMMARY)


def user_traceback(error: BaseException) -> str:
    """The traceback as text, without the frames of this server and of the import system, and bounded."""
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    text = "".join(report.format()).rstrip()
    return cut(text, _LONGEST_TRACEBACK)


def _trim(report: traceback.TracebackException) -> None:
    report.stack[:] = [frame for frame in report.stack if _is_the_users(frame.filename)]
    for inner in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if inner is not None:
            _trim(inner)


def has_users_frames(error: BaseException) -> bool:
    """Whether code that is not the server's was running when this was raised."""
    return any(_is_the_users(name) for name in _filenames(error))


def _filenames(error: BaseException) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_code.co_filename


def _is_the_users(filename: str) -> bool:
    if filename.startswith("<frozen importlib") or filename == importlib.__file__:
        return False
    return not filename.startswith(_PACKAGE) or filename.startswith(_DEMO)
