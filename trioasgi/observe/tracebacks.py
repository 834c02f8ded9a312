"""The summary and the traceback of an exception of the user's code, as text."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterator

from .text import cut

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_PARENT = os.path.dirname(os.path.dirname(_PACKAGE))  # compiled modules name their files from here
_DEMO = os.path.join(_PACKAGE, "demo")  # an application, if one of ours
_LONGEST_TRACEBACK = 12_000
"""Characters. A traceback must fit into a report. That of a RecursionError would fill several screens."""

_LONGEST_SUMMARY = 1000
"""Characters of an exception's message in the summary. The traceback has it too."""


def summary(error: BaseException) -> str:
    """The last line of the traceback, shortened if it is long."""
    return cut(traceback.format_exception_only(error)[-1].strip(), _LONGEST_SUMMARY)


def user_traceback(error: BaseException) -> str:
    """The traceback as text, without frames of this server and of the import system, shortened if
    it is long.
    """
    report = traceback.TracebackException.from_exception(error)
    _trim(report)
    text = "".join(report.format()).rstrip()
    return cut(text, _LONGEST_TRACEBACK)


def _trim(report: traceback.TracebackException) -> None:
    report.stack[:] = [frame for frame in report.stack if is_the_users(frame.filename)]
    for inner in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if inner is not None:
            _trim(inner)


def has_users_frames(error: BaseException) -> bool:
    """Was code of the user running when this was raised?"""
    return any(is_the_users(name) for name in _filenames(error))


def _filenames(error: BaseException) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield frame.f_code.co_filename


def is_the_users(filename: str) -> bool:
    """Is it code of the user, or of a library, and not of this server or of the import system?"""
    if filename.startswith("<frozen importlib") or filename == importlib.__file__:
        return False
    path = os.path.join(_PARENT, filename)
    return not path.startswith(_PACKAGE) or path.startswith(_DEMO)
