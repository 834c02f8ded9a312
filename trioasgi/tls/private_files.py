"""Files that belong to one user: how they are checked before they are believed, written whole, and locked."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from trioasgi.errors import TLSError

_LARGEST = 1 << 16
"""Bytes of a certificate's or a key's file that are read."""
_LOCK = ".lock"
_NEW = ".new-"
_PATIENCE = 5.0
"""Seconds to wait for another process that writes."""


def read_private(path: Path) -> bytes | None:
    """Read a file that nobody else may read or write. None if there is none.

    Raises TLSError, which names the file and the fix, if it is another user's, or may be read by others; and
    OSError if its folder cannot be looked into.
    """
    try:
        os.stat(path)
    except FileNotFoundError:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except PermissionError:
        raise TLSError(
            f"{str(path)!r} may not be read by this user: run 'chmod 600' on it as its owner, or remove it"
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor), forbidden=0o077, fix="chmod 600")
        return file.read(_LARGEST)


def check_private_folder(folder: Path) -> None:
    """Raise TLSError if others may change what is in the folder, and OSError if it is none."""
    found = os.stat(folder)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{str(folder)!r} is not a directory")
    _check(folder, found, forbidden=0o022, fix="chmod 700")


def is_ours(folder: Path) -> bool:
    """Does the folder, or the nearest one above it that exists, belong to this process's user?"""
    if sys.platform == "win32":
        return True
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.stat().st_uid == os.geteuid()


def _check(path: Path, found: os.stat_result, *, forbidden: int, fix: str) -> None:
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise TLSError(f"{str(path)!r} is not a file: remove it")
    if sys.platform == "win32":
        return
    user = os.geteuid()
    if user not in (0, found.st_uid):  # root may use what is another user's: `sudo trioasgi -b :443`
        raise TLSError(f"{str(path)!r} belongs to another user: remove it, or make it yours with 'chown'")
    if found.st_mode & forbidden:
        verb = "read" if forbidden & 0o044 else "changed"
        raise TLSError(f"{str(path)!r} may be {verb} by other users: run '{fix}' on it")


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file, or replace one: it is never seen in part. Raises OSError, also if the file system does
    not keep a mode of 0600.
    """
    new = path.with_name(_NEW + secrets.token_hex(8))
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _check_mode(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def _check_mode(descriptor: int, mode: int) -> None:
    if sys.platform != "win32" and os.fstat(descriptor).st_mode & 0o077 & ~mode:
        raise PermissionError("its file system does not keep files private")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process that writes in the folder. Raises OSError, TimeoutError among them."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(folder / _LOCK, flags, 0o600)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"another process has held {str(folder / _LOCK)!r} for {_PATIENCE:.0f} seconds"
                )
            time.sleep(0.05)
        for left in folder.glob(f"{_NEW}*"):  # of a process that was killed
            with contextlib.suppress(OSError):
                left.unlink()
        yield
    finally:
        os.close(descriptor)  # which unlocks


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
