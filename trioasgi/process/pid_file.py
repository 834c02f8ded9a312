"""The file with the id of this process, for programs that send signals.

It is written at the start, before the listeners are bound, as gunicorn does: from then on signals that stop
are acted on, and SIGHUP and SIGUSR1 do no harm. That the server serves is said elsewhere (systemd's READY=1,
a health check).

The process holds a lock (flock(2)) on the file while it lives. So a file that a killed process has left never
stops a start, even if another process has got its id. The file appears under its name with its content: by
link(2) where there was none, by rename(2) in place of a stale one, whose lock is held meanwhile. So of two
that start at the same time one is refused.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from typing import Final

from trioasgi.errors import TrioasgiError

logger = logging.getLogger("trioasgi")

_MODE: Final = 0o644
_TRIES: Final = 5
_PAUSE: Final = 0.02
"""Another start may hold the lock of a stale file for a moment, while it puts its own into the place."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of file systems without hard links."""

_files: set[PidFile] = set()
"""Those that this process holds."""


class PidFile:
    """Made by `pid_file`."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._pid = os.getpid()
        self._fd = _claim(self._path)
        _files.add(self)

    def give_to(self, user: int, group: int) -> None:
        """Let this user own the file. Raises OSError."""
        if sys.platform != "win32":
            os.fchown(self._fd, user, group)

    def remove(self) -> None:
        """Remove the file, unless it is another one by now. If the folder does not let this user do that, the
        file is emptied: another process may get the id.
        """
        if self not in _files or os.getpid() != self._pid:  # a fork of this process
            return
        try:
            if _is_at(self._fd, self._path):
                os.unlink(self._path)
        except PermissionError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            logger.info("The folder of the pid file lets this user remove nothing: it stays, and is empty")
        except OSError as error:
            logger.warning("the pid file %s cannot be removed: %s", self._path, error)
        finally:
            if self in _files:  # else a signal has ended this at once, in between
                _files.discard(self)
                os.close(self._fd)


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[PidFile | None]:
    """The pid file within the block; None without a path. Raises TrioasgiError, which says what to do."""
    if path is None:
        yield None
        return
    try:
        file = PidFile(path)
    except OSError as error:
        raise TrioasgiError(
            f"the pid file {path!r} cannot be written: {error.strerror or error}; choose another place, or "
            "let this user write there"
        ) from error
    try:
        yield file
    finally:
        file.remove()


def remove_pid_files() -> None:
    """Remove the files of this process, for its last moment. In any thread or signal handler."""
    for file in tuple(_files):
        file.remove()


def _claim(path: str) -> int:
    """Put a file with this process's id at `path`, and return its descriptor, with the lock. Raises OSError,
    or TrioasgiError if a living process has the file.
    """
    temporary = f"{path}.{os.urandom(8).hex()}"
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        os.write(fd, b"%d\n" % os.getpid())
        if sys.platform == "win32":
            os.close(fd)  # an open file cannot be renamed there
            os.replace(temporary, path)
            return os.open(path, os.O_RDWR)
        os.fchmod(fd, _MODE)
        _lock(fd)
        _place(temporary, path)
        return fd
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _place(temporary: str, path: str) -> None:
    for _ in range(_TRIES):
        if _put(temporary, path):
            return
        time.sleep(_PAUSE)
    raise _held(path)


def _held(path: str) -> TrioasgiError:
    return TrioasgiError(
        f"the pid file {path!r} belongs to a process that runs, {_read_pid(path) or 'just started'}: "
        "stop it first, or choose another file"
    )


def _put(temporary: str, path: str) -> bool:
    """Give the file the name `path`. False if a living process has one of that name, or had it just now."""
    if sys.platform == "win32":
        raise NotImplementedError
    if _put_first(temporary, path):
        return True
    try:
        old = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        if not _is_pid_file(old):
            raise TrioasgiError(
                f"the pid file {path!r} is a file of another kind: it has no process id; choose another"
            )
        if not _lock(old) and _is_alive(_read_pid(path)):
            return False
        if not _is_at(old, path):
            return False
        os.rename(temporary, path)
        return True
    finally:
        os.close(old)


def _put_first(temporary: str, path: str) -> bool:
    """Give the file the name `path`. False if there is one of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        os.rename(temporary, path)
    return True


def _is_pid_file(fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    content = os.read(fd, 32).strip()
    return not content or content.isdigit()


def _lock(fd: int) -> bool:
    """Lock the file. False if another process holds the lock, or the file system has no locks.

    The lock belongs to the open file: a child that was forked holds it too, after the death of its parent. So
    the id in the file counts as well.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read_pid(path: str) -> int:
    """The id in the file; 0 if there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def _is_alive(pid: int) -> bool:
    if pid <= 0 or pid == os.getpid():  # our own, of an earlier start in a container
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_at(fd: int, path: str) -> bool:
    """Is the open file the one at `path`?"""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), found)
