"""Watches the files that options name, and the files of the options, for `--reload`.

These are the env file, the configuration file, that of the log, and the certificates. They are few and may
lie anywhere, also behind links that are replaced: so they are looked at from time to time.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from trioasgi.config.named_files import CERTIFICATE_FILES, named_files

if TYPE_CHECKING:
    from trioasgi.config import Config

_LOOK_EVERY: Final = 0.1
"""Seconds between two looks. A change counts when the next look finds nothing newer."""
_MOST_MISSING: Final = 10
"""Looks until a missing file counts as removed. Programs replace files in more than one step."""

_NAMED: Final = ("env_file", "log_config", *CERTIFICATE_FILES)
"""The options that name files."""


class SourcesChanged(msgspec.Struct, frozen=True):
    """These files of options have changed. The paths are as they were given."""

    paths: tuple[str, ...]


def source_files(config: Config) -> tuple[str, ...]:
    """The files that the options name or were read from, whether they are there or not."""
    return (*config.files, *named_files(config, _NAMED))


Signature = tuple[int, ...] | None
"""What changes with a file; None if it is missing."""


class _Look(msgspec.Struct):
    """What was found of a file."""

    reported: Signature
    latest: Signature
    repeats: int = 0

    def take(self, found: Signature) -> bool:
        """Has it changed for good?"""
        self.repeats = self.repeats + 1 if found == self.latest else 0
        self.latest = found
        enough = _MOST_MISSING if found is None else 1
        if found == self.reported or self.repeats < enough:
            return False
        self.reported = found
        return True


async def watch_sources(files: Callable[[], Sequence[str]], tell: Callable[[SourcesChanged], None]) -> None:
    """Call `tell` for changes of the files until cancelled. Which files these are may change, too."""
    looks: dict[str, _Look] = {}
    while True:
        names = files()
        changed = [name for name in names if name in looks and looks[name].take(_signature(name))]
        looks = {name: looks.get(name) or _first_look(name) for name in names}
        if changed:
            tell(SourcesChanged(tuple(dict.fromkeys(changed))))
        await trio.sleep(_LOOK_EVERY)


def _first_look(name: str) -> _Look:
    found = _signature(name)
    return _Look(found, found)


def _signature(name: str) -> Signature:
    try:
        status = os.stat(name)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return status.st_dev, status.st_ino  # each read of a pipe changes its time
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
