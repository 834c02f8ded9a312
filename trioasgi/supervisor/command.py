"""How a worker is started: under our own interpreter, and its flags."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def worker_command(directory: str) -> list[str]:
    """The command of a worker in this directory, under our own interpreter and its flags."""
    flags = [*_warning_flags(), *_x_flags()]
    if sys.flags.optimize:
        flags.append("-" + "O" * sys.flags.optimize)
    if Path(__file__).parents[2] != Path(directory):
        # Keep the current directory off sys.path until the application is loaded: a queue.py or types.py
        # there would break the worker's own imports. (Not where it is that directory that we come from.)
        flags.append("-P")
    return [sys.executable, *flags, "-m", "trioasgi.worker"]


def _warning_flags() -> list[str]:
    if "PYTHONWARNINGS" in os.environ:  # inherited anyway, and part of what the list holds
        return []
    return [f"-W{option}" for option in sys.warnoptions]


def _x_flags() -> list[str]:
    options = getattr(sys, "_xoptions", {})  # CPython's and PyPy's; the language does not promise it
    return [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in options.items()]
