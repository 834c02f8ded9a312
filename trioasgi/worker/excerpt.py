"""Reads a text with tracebacks, as Python writes them, and finds the source around each of their lines."""

from __future__ import annotations

import os
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from itertools import takewhile
from typing import Final, TypeAlias

import msgspec

_CONTEXT: Final = 5
"""Lines shown before and after that of a frame."""
_LARGEST: Final = 2_000_000
"""Bytes of the largest source that is read."""
_LONGEST_LINE: Final = 400
"""Characters shown of a line of the source."""

# The bars are those of an exception group.
_FRAME: Final = re.compile(r'([ |]*)File "([^"\n]+)", line (\d+)(?:, in (.+))?')
_INSTALLED: Final = ("site-packages", "dist-packages")


class Frame(msgspec.Struct, frozen=True):
    """A place in a traceback, with the lines of the source around it."""

    file: str
    line: int
    name: str
    """The function; empty for a SyntaxError."""
    quoted: str
    """What the traceback itself quotes of the source."""
    source: tuple[tuple[int, str], ...]
    """Lines with their numbers; none if the source cannot be read."""
    is_library: bool
    """Is it an installed package, or of Python itself?"""


Piece: TypeAlias = str | Frame


def pieces(text: str) -> Iterator[Piece]:
    """The text as frames of tracebacks, and what stands between them."""
    lines = text.splitlines()
    between: list[str] = []
    while lines:
        match = _FRAME.fullmatch(lines[0])
        if match is None:
            between.append(lines.pop(0))
            continue
        if between:
            yield "\n".join(between)
            between = []
        inner = match[1] + "  "
        quoted = list(takewhile(lambda line, inner=inner: line.startswith(inner), lines[1:]))  # type: ignore[misc]
        del lines[: 1 + len(quoted)]
        yield _frame(match[2], int(match[3]), match[4] or "", quoted)
    if between:
        yield "\n".join(between)


def _frame(file: str, line: int, name: str, quoted: list[str]) -> Frame:
    return Frame(file, line, name, "\n".join(quoted), tuple(_source(file, line)), _is_library(file))


def _source(file: str, line: int) -> Iterator[tuple[int, str]]:
    """The lines around this one. The message of an exception may look like a frame, so nothing is shown but
    Python's source.
    """
    if not file.endswith(".py"):
        return
    try:
        if not os.path.isfile(file) or os.path.getsize(file) > _LARGEST:
            return
        with tokenize.open(file) as opened:
            lines = opened.read().splitlines()
    except (OSError, SyntaxError, ValueError):  # its encoding is unknown, or is not what it says
        return
    for number in range(max(1, line - _CONTEXT), min(len(lines), line + _CONTEXT) + 1):
        yield number, lines[number - 1][:_LONGEST_LINE]


def _is_library(file: str) -> bool:
    if any(part in _INSTALLED for part in file.replace("\\", "/").split("/")):
        return True
    return file.startswith((sysconfig.get_path("stdlib") + os.sep, "<frozen"))
