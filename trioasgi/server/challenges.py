"""Files that answer the challenges of an ACME authority (RFC 8555, 8.3, http-01): `--acme-dir`."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import stat
import time
from typing import Final

logger = logging.getLogger("trioasgi")

_PATH: Final = re.compile(rb"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,128})")
"""A token has the characters of base64url only (RFC 8555, 8.3), so it names a file of the directory itself.
Nothing is decoded: a path with `%2e` is no such path.
"""

LARGEST: Final = 64 * 1024
"""Bytes. A key authorization has far fewer."""

WARN_EVERY: Final = 60.0
"""Seconds from one warning to the next. Everybody may ask for a challenge, as often as they like."""

_NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO})
"""The file is missing, a symbolic link (FreeBSD says EMLINK), or a socket."""

_READ: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # else a pipe would block until somebody writes to it
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_OPEN_DIRECTORY: Final = (
    getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
)


def token_in(path: bytes) -> str | None:
    """The token that a path asks for, as received; None if it is the path of no challenge."""
    match = _PATH.fullmatch(path)
    return None if match is None else match[1].decode("ascii")


class Challenges:
    """The files of a directory, each named by its token. Programs for ACME may remove the directory and make
    it anew, so it is opened for each challenge.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)  # the application may leave the current directory
        self._next_warning = -math.inf

    def read(self, token: str) -> bytes | None:
        """The content of the token's file. None if there is no regular file of that name, or it is too large.

        The read blocks. Raises OSError.
        """
        try:
            fd = self._open(token)
        except OSError as exc:
            if exc.errno in _NOT_THERE:
                return None
            raise
        try:
            content = _read_whole(fd)
        finally:
            os.close(fd)
        if content is not None and len(content) > LARGEST:
            self.warn("the file of the ACME challenge %s has more than %d bytes: 404", token, LARGEST)
            return None
        return content

    def warn(self, message: str, *args: object) -> None:
        """Log a warning; at debug level, if the last one is not long ago."""
        now = time.monotonic()
        is_due = now >= self._next_warning
        if is_due:
            self._next_warning = now + WARN_EVERY
        logger.log(logging.WARNING if is_due else logging.DEBUG, message, *args)

    def _open(self, token: str) -> int:
        if os.open not in os.supports_dir_fd:
            path = os.path.join(self._directory, token)
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise OSError(errno.ELOOP, "it is a symbolic link")
            return os.open(path, _READ)
        directory = os.open(self._directory, _OPEN_DIRECTORY)
        try:
            return os.open(token, _READ, dir_fd=directory)
        finally:
            os.close(directory)


def _read_whole(fd: int) -> bytes | None:
    """The content, up to a byte more than may be. None if it is no regular file."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return None
    pieces: list[bytes] = []
    left = LARGEST + 1
    while left and (piece := os.read(fd, left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
