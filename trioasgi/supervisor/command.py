"""The command that starts a worker, with the same interpreter and flags as this process; its directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def worker_command(directory: str, module: str = "trioasgi.worker") -> list[str]:
    """The command of a worker in this directory; of another `module`, that of its process."""
    flags = [*_warning_flags(), *_x_flags()]
    if sys.flags.optimize:
        flags.append("-" + "O" * sys.flags.optimize)
    if Path(__file__).parents[2] != Path(directory):
        # Keep the current directory off sys.path until the application is loaded: a queue.py or types.py
        # there would break the worker's own imports. (But not if trioasgi itself was imported from it.)
        flags.append("-P")
    return [sys.executable, *flags, "-m", module]


def _warning_flags() -> list[str]:
    if "PYTHONWARNINGS" in os.environ:  # the worker inherits it, and the list includes it
        return []
    return [f"-W{option}" for option in sys.warnoptions]


def _x_flags() -> list[str]:
    options = getattr(sys, "_xoptions", {})  # CPython and PyPy have it; other implementations need not
    return [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in options.items()]


def identity_of(directory: str | os.PathLike[str]) -> tuple[int, int] | None:
    """The device and inode of a directory; None if it is gone."""
    try:
        status = os.stat(directory)
    except OSError:
        return None
    return status.st_dev, status.st_ino
