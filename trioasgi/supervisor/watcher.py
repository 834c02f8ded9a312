"""Which files matter to `--reload`, and word of their changes."""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from trioasgi.errors import ConfigError, TrioasgiError

if TYPE_CHECKING:
    import watchfiles

    from trioasgi.config import Config

DEFAULT_INCLUDES = ("*.py",)
DEFAULT_EXCLUDES = (
    ".*",  # hidden files, Vim's swap files, Emacs' locks
    "*.py[cod]",
    "*~",
    "~*",
    "#*#",
    "*.sw?",
    "*.tmp",
    "*___jb_*___",
    "flycheck_*",
    "4913",  # what Vim writes to see whether it can
)
IGNORED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Anywhere below a watched directory; and so are hidden ones (.venv, .git, …)."""

_MAX_BATCH = 1_600
"""Milliseconds after which changes are told even if more keep coming."""


class FilesChanged(msgspec.Struct, frozen=True):
    """These files were saved, made or removed; paths as short as they can be said."""

    paths: tuple[str, ...]


class FileFilter:
    """Tells whether a file matters: uvicorn's rules, and nothing that editors and tools make by the way.

    An include or exclude is a glob for the end of the path (as `PurePath.match` has it) or a directory.
    `*.py` is included unless excluded by the same words. A default exclude yields to an include that names
    the file itself (`.env`), or that is the same words.
    """

    def __init__(self, roots: Sequence[Path], includes: Sequence[str], excludes: Sequence[str]) -> None:
        self._included = [Path(os.path.abspath(name)) for name in includes if os.path.isdir(name)]
        self._roots = [*(Path(os.path.abspath(root)) for root in roots), *self._included]
        self._excluded = [Path(os.path.abspath(name)) for name in excludes if os.path.isdir(name)]
        self._includes = [name for name in includes if not os.path.isdir(name)]
        self._includes += [glob for glob in DEFAULT_INCLUDES if glob not in excludes]
        self._named = [name for name in includes if not _is_glob(name)]
        self._excludes = [name for name in excludes if not os.path.isdir(name)]
        self._default_excludes = [glob for glob in DEFAULT_EXCLUDES if glob not in includes]

    def __call__(self, change: watchfiles.Change, path: str) -> bool:  # noqa: ARG002 - watchfiles' signature
        """Whether a change of this absolute path is one to reload for."""
        file = Path(path)
        if self._is_excluded(file) or _in_ignored_directory(self._below_root(file)):
            return False
        if any(file.match(name) for name in self._named):
            return True
        if any(fnmatch.fnmatch(file.name, glob) for glob in self._default_excludes):
            return False
        return self._is_included(file)

    def _is_included(self, file: Path) -> bool:
        if any(file.match(glob) for glob in self._includes):
            return True
        return any(directory in file.parents for directory in self._included)

    def _is_excluded(self, file: Path) -> bool:
        if any(file.match(glob) for glob in self._excludes):
            return True
        return any(directory == file or directory in file.parents for directory in self._excluded)

    def _below_root(self, file: Path) -> Path:
        """The part of the path that is ours to judge: a project may itself live in a hidden directory."""
        below = [file.relative_to(root) for root in self._roots if root in file.parents]
        return min(below, key=lambda path: len(path.parts), default=file)


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[")


def _in_ignored_directory(file: Path) -> bool:
    return any(part.startswith(".") or part in IGNORED_DIRECTORIES for part in file.parent.parts)


def watched_directories(config: Config) -> list[Path]:
    """Where to look: `reload_dirs`, else the current directory and `app_dir`; and included directories.

    Raises ConfigError for one that is not there.
    """
    for name in config.reload_dirs:
        if not os.path.isdir(name):
            raise ConfigError(f"reload_dirs: {name!r} is not a directory")
    named = config.reload_dirs or (os.curdir, config.app_dir or os.curdir)
    included = [name for name in config.reload_includes if os.path.isdir(name)]
    found = {Path(os.path.abspath(name)) for name in (*named, *included) if os.path.isdir(name)}
    # One inside another would be watched twice.
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


async def watch(config: Config, tell: Callable[[FilesChanged], None]) -> None:
    """Call `tell` for changes, those less than `reload_delay` seconds apart together, until cancelled.

    Raises ConfigError as `watched_directories` does, TrioasgiError if the system cannot watch.
    """
    roots = watched_directories(config)
    await trio.lowlevel.checkpoint()  # first the workers are on their way
    import watchfiles  # it brings AnyIO and multiprocessing

    delay = max(1, int(config.reload_delay * 1000))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        try:
            async for changes in watchfiles.awatch(
                *roots,
                watch_filter=FileFilter(roots, config.reload_includes, config.reload_excludes),
                stop_event=stop,
                step=delay,
                debounce=max(_MAX_BATCH, delay),
                ignore_permission_denied=True,
            ):
                tell(FilesChanged(tuple(sorted({_shortest(path) for _, path in changes}))))
        except (OSError, RuntimeError) as error:
            raise TrioasgiError(
                f"files cannot be watched for changes: {error}; "
                "WATCHFILES_FORCE_POLLING=true in the environment may help, "
                "or a smaller directory given as --reload-dir"
            ) from error


async def _set_when_cancelled(stop: trio.Event) -> None:
    """The thread that watches looks at `stop` alone: without it, cancellation would wait for a change."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove what is compiled of these files.

    Python takes compiled code for current if the source has the same size, and the same time of change in
    whole seconds (PEP 552 has better, but not by default): of two quick saves it could go on with the first.
    """
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))


def _shortest(path: str) -> str:
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another drive
        return path
    return path if relative.startswith(os.pardir) else relative
