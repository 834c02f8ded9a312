"""Reads regular files in pieces.

Channels do so where the kernel cannot send a file, and exchanges whose version of HTTP overrides nothing.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_SLICE: Final = 256 * 1024
"""Bytes of a file that are read, or sent by the kernel, before other connections get their turn."""


def read_in_pieces(fd: int, offset: int, count: int) -> Iterator[bytes]:
    """Read `count` bytes of a regular file from `offset` on, in pieces of at most `FILE_SLICE` bytes.

    The reads block: a thread for each piece would cost more than most reads. Raises EOFError if the file is
    shorter, or cannot be read.
    """
    while count:
        try:
            piece = _read_at(fd, offset, min(count, FILE_SLICE))
        except OSError as exc:  # an OSError would mean that the connection is broken
            raise EOFError(f"the file cannot be read: {exc}") from exc
        if not piece:
            raise EOFError(f"the file ends {count} bytes before what was to be sent")
        offset += len(piece)
        count -= len(piece)
        yield piece


def _read_at(fd: int, offset: int, size: int) -> bytes:
    if sys.platform == "win32":
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)
    return os.pread(fd, size, offset)
