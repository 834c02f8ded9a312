"""Reads files that options name, in the loop of a supervisor too: a named pipe does not stop it for good.

Some programs that keep secrets show an env file as a named pipe, into which they write whenever it is opened.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from pathlib import Path
from typing import Final

_PATIENCE: Final = 2.0
"""Seconds in which whoever writes into a pipe must do it. A worker must answer its supervisor meanwhile."""
_CHUNK: Final = 1 << 16
_MOST: Final = 16 << 20
"""Bytes. No file that an option names is larger, but a device such as /dev/zero has no end."""


def read_file(path: str | Path) -> bytes:
    """What is in the file. Raises OSError: ETIMEDOUT if it is a pipe whose end does not come, EFBIG if it has
    more than 16 MiB.
    """
    if sys.platform != "win32" and stat.S_ISFIFO(os.stat(path).st_mode):
        return _read_pipe(path)
    with open(path, "rb") as file:
        content = file.read(_MOST + 1)
    _refuse_larger(len(content))
    return content


def _refuse_larger(size: int) -> None:
    if size > _MOST:
        raise OSError(errno.EFBIG, f"it has more than {_MOST >> 20} MiB")


if sys.platform != "win32":

    def _read_pipe(path: str | Path) -> bytes:
        import select

        pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # otherwise this would wait for the other side
        try:
            arrival = select.poll()
            arrival.register(pipe, select.POLLIN)
            content = bytearray()
            deadline = time.monotonic() + _PATIENCE
            while (left := deadline - time.monotonic()) > 0 and arrival.poll(left * 1000):
                data = os.read(pipe, _CHUNK)
                if not data:
                    return bytes(content)
                content += data
                _refuse_larger(len(content))
            raise OSError(errno.ETIMEDOUT, f"it is a pipe whose end has not come within {_PATIENCE:g} s")
        finally:
            os.close(pipe)
