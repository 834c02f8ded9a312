"""Regular expressions that are compiled when they are first used: few servers need all of them, and to
compile one takes as long as to load a module.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, AnyStr, cast

if TYPE_CHECKING:
    from re import Pattern


class _Uncompiled:
    """Stands for a compiled pattern. A method that was used once is as fast as the pattern's."""

    def __init__(self, pattern: str | bytes) -> None:
        self._pattern = pattern

    def __getattr__(self, name: str) -> object:
        method = getattr(re.compile(self._pattern), name)
        setattr(self, name, method)
        return method


def compiled_later(pattern: AnyStr) -> Pattern[AnyStr]:
    """Like `re.compile`, but a mistake in `pattern` raises only when it is used."""
    return cast("Pattern[AnyStr]", _Uncompiled(pattern))
