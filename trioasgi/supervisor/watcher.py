"""Watches files for `--reload`. Which of them matter: `file_filter.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from trioasgi.config import OPTIONS
from trioasgi.config.option import origin_of
from trioasgi.errors import NO_ROOM, TrioasgiError, lone_error

from .command import identity_of
from .file_filter import FileFilter, file_filter

if TYPE_CHECKING:
    import watchfiles

    from trioasgi.config import Config

logger = logging.getLogger("trioasgi")

_MAX_BATCH = 1_600
"""Milliseconds after which changes are reported even if more keep coming."""
_LOOK_EVERY = 1_000
"""Milliseconds between two checks that the watched directories still exist."""
_RETRY = 2.0
"""Seconds until the next attempt to watch, if the system had no room."""
_POLLING = "WATCHFILES_FORCE_POLLING"
"""watchfiles' own variable: look for changes from time to time, where the system cannot tell of them."""
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""The end of Rust's message for an error of the system."""
_NO_THREAD = "can't start new thread"
"""The message of Python's RuntimeError at RLIMIT_NPROC."""
_WATCHERS_THREADS = 2
"""The threads that watching takes: one of watchfiles, and one of Python that waits for it."""
_ADDED = 1
"""The value of watchfiles.Change.added. That module is imported late."""


class FilesChanged(msgspec.Struct, frozen=True):
    """These files were saved, made or removed. The paths are as short as possible."""

    paths: tuple[str, ...]


def watched_directories(config: Config) -> list[Path]:
    """The directories to watch: `reload_dirs`, or the current directory and `app_dir`; and included
    directories.

    Raises ConfigError if one does not exist.
    """
    for name in config.reload_dirs:
        if not os.path.isdir(name):
            OPTIONS["reload_dirs"].refuse(
                name, origin_of("reload_dirs", config.origins), "a directory that is there"
            )
    named = config.reload_dirs or (os.curdir, config.app_dir or os.curdir)
    included = [name for name in config.reload_includes if os.path.isdir(name)]
    found = {Path(os.path.abspath(name)) for name in (*named, *included) if os.path.isdir(name)}
    # One inside another would be watched twice.
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


async def watch(
    config: Config,
    tell: Callable[[FilesChanged], None],
    sources: Callable[[], Sequence[str]] = tuple,
) -> None:
    """Call `tell` for changes until cancelled. Changes less than `reload_delay` seconds apart come together.
    The files `sources`, which are watched elsewhere, do not count.

    A removed directory is watched again when it is back. If the system has no room, of file descriptors for
    example, or if watching fails later, it is tried again. Raises ConfigError as `watched_directories` does,
    and TrioasgiError if the system cannot watch from the start.
    """
    roots = watched_directories(config)
    here = os.getcwd()
    matters = file_filter(config, roots)
    await trio.lowlevel.checkpoint()  # first the workers are on their way
    attempts = _Attempts()
    returned: tuple[str, ...] = ()
    while True:
        try:
            await _watch_while_there(config, roots, Changes(matters, here, sources), tell, returned, attempts)
        except (OSError, RuntimeError, ImportError) as error:
            is_for_want_of_room = _is_for_want_of_room(error)
            if is_for_want_of_room or (attempts.has_watched and not _gone(roots)):
                attempts.say(error, "; raise the limits of open files and processes" * is_for_want_of_room)
                await trio.sleep(_RETRY)
                if attempts.has_watched:  # what has changed meanwhile is not reported
                    returned = tuple(str(root) for root in roots)
                continue
            if not _gone(roots):
                advice = _likely_reason(config) if isinstance(error, ImportError) else _advice()
                raise TrioasgiError(f"files cannot be watched for changes: {error}; {advice}") from error
        await _until_there(roots, here)
        returned = tuple(str(root) for root in roots)


class _Attempts:
    """What the attempts to watch have come to. The same failure is said once."""

    def __init__(self) -> None:
        self.has_watched = False
        self._said = ""

    def note_success(self) -> None:
        self.has_watched = True
        self._said = ""

    def say(self, error: Exception, advice: str) -> None:
        if str(error) != self._said:
            self._said = str(error)
            logger.warning("Files cannot be watched now: %s%s", error, advice)


def _likely_reason(config: Config) -> str:
    """Why an import fails: where Python can start, all that it needs is there."""
    user = "this user" if config.user is None else f"the user {config.user}"
    return f"perhaps {user} may not read the files of Python and of its packages"


def _advice() -> str:
    directory = "a smaller directory given as --reload-dir"
    if os.environ.get(_POLLING):
        return f"{directory} may help"
    return f"{_POLLING}=true in the environment may help, or {directory}"


async def _watch_while_there(
    config: Config,
    roots: Sequence[Path],
    changes: Changes,
    tell: Callable[[FilesChanged], None],
    returned: tuple[str, ...],
    attempts: _Attempts,
) -> None:
    """Watch until one of the roots is removed or replaced. `returned` have changed already. That is reported
    once they are watched, so that no change is missed.
    """
    import watchfiles  # it brings AnyIO and multiprocessing

    watched = _identities(roots)
    delay = max(1, int(config.reload_delay * 1000))
    stop = trio.Event()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        try:
            _require_threads()
            async for found in watchfiles.awatch(
                *roots,
                watch_filter=changes.matters,
                stop_event=stop,
                step=delay,
                debounce=max(_MAX_BATCH, delay),
                rust_timeout=_LOOK_EVERY,
                yield_on_timeout=True,
                ignore_permission_denied=True,
            ):
                attempts.note_success()
                if paths := (*returned, *changes.paths(found)):
                    tell(FilesChanged(paths))
                returned = ()
                if _identities(roots) != watched:
                    break
        except (OSError, RuntimeError, ImportError) as error:
            failure = error  # raised outside of the nursery, which would make a group of it
        except ExceptionGroup as group:  # watchfiles has a task group of its own, around its thread
            lone = lone_error(group)
            if not isinstance(lone, OSError | RuntimeError | ImportError):
                raise
            failure = lone
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _require_threads() -> None:
    """Raise Python's RuntimeError where there is no room for the threads that watching takes: if watchfiles
    cannot start its own, it ends this process with a message in Rust.
    """
    over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(_WATCHERS_THREADS):
            thread = threading.Thread(target=over.wait, name="trioasgi room", daemon=True)
            thread.start()
            started.append(thread)
    finally:
        over.set()
        for thread in started:
            thread.join()


def _is_for_want_of_room(error: Exception) -> bool:
    """Has the system no room, so that watching may be tried again? watchfiles gives the error number only in
    its message, and Python gives none if there is no room for a thread.
    """
    if str(error) == _NO_THREAD:
        return True
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _OS_ERROR.search(str(error))):
        number = int(found[1])
    return number in NO_ROOM


def _identities(roots: Sequence[Path]) -> list[tuple[int, int] | None]:
    return list(map(identity_of, roots))


def _gone(roots: Sequence[Path]) -> list[str]:
    """Those that are no directory now, or are below one that this user may not look into."""
    return [str(root) for root in roots if not os.path.isdir(root)]


async def _until_there(roots: Sequence[Path], here: str) -> None:
    if gone := _gone(roots):
        logger.warning("Gone: %s; waiting for it to come back", ", ".join(gone))
    while True:
        if not _gone(roots):
            break
        await trio.sleep(_LOOK_EVERY / 1000)
    with contextlib.suppress(OSError):
        os.chdir(here)  # relative paths must be those of the directory that exists now


class Changes:
    """Selects the changes that matter, and names their files.

    Paths are shown relative to the directory `here`. The files `sources` do not matter.
    """

    def __init__(
        self, file_filter: FileFilter, here: str, sources: Callable[[], Sequence[str]] = tuple
    ) -> None:
        self._filter = file_filter
        self._here = here
        self._sources = sources

    def _file_matters(self, change: watchfiles.Change, path: str) -> bool:
        return self._filter(change, path) and path not in map(os.path.abspath, self._sources())

    def matters(self, change: watchfiles.Change, path: str) -> bool:
        """Is it a file that matters, or a new directory with such a file?"""
        return self._file_matters(change, path) or next(self._brought(change, path), None) is not None

    def paths(self, changes: Iterable[tuple[watchfiles.Change, str]]) -> tuple[str, ...]:
        """The paths of the files, as short as possible."""
        found: set[str] = set()
        for change, path in changes:
            found.update(self._brought(change, path))
            if self._file_matters(change, path):
                found.add(path)
        self._filter.forget()  # until the next changes
        return tuple(sorted(_shortest(path, self._here) for path in found))

    def _brought(self, change: watchfiles.Change, path: str) -> Iterator[str]:
        """The files that matter in a new directory. The system does not report those that existed before it
        could watch the directory, as with `cp -r`.
        """
        if change != _ADDED or not os.path.isdir(path):
            return
        for parent, _, names in os.walk(path):
            for name in names:
                file = os.path.join(parent, name)
                if self._file_matters(change, file):
                    yield file


async def _set_when_cancelled(stop: trio.Event) -> None:
    """Set `stop` when cancelled. The watching thread checks only that: a cancellation would wait for a
    change.
    """
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove the compiled code of these files.

    Python uses compiled code if the source has the same size and the same modification time in whole seconds
    (PEP 552 has a better check, but not by default). So after two quick saves it could run the first.
    """
    for path in paths:
        if path.endswith(".py"):
            with contextlib.suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))


def _shortest(path: str, here: str) -> str:
    try:
        relative = os.path.relpath(path, here)
    except ValueError:  # on another drive
        return path
    return path if relative.startswith(os.pardir) else relative
