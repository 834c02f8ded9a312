"""Imports modules without garbage collection, and finds the directory to import from."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

from trioasgi.errors import LoadError


@contextlib.contextmanager
def uncollected_imports() -> Iterator[None]:
    """Stop the garbage collector inside the block, and exempt the new objects from later collections.

    Modules live as long as the process, so collections among them only take time, at the start and later. Use
    this only in processes that belong to the server, and only for its own modules, not for the application's.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def working_directory() -> str:
    """The current directory. Raises LoadError if it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise LoadError(
            "the working directory was removed: change to one that is there, and start again"
        ) from error


def lasting_directory() -> str:
    """The current directory by the name that the shell gives it (`PWD`, POSIX). A deployment may let a link
    lead to its next release, which a new worker should run; one that runs should import nothing of it.

    Raises LoadError if it was removed.
    """
    current, named = working_directory(), os.environ.get("PWD", "")
    with contextlib.suppress(OSError, ValueError):
        if os.path.isabs(named) and os.path.samefile(named, current):
            return named
    return current
