"""How a process of ours gets its modules: without the garbage collector looking at them again and again; and
where from."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

from trioasgi.errors import LoadError


@contextlib.contextmanager
def uncollected_imports() -> Iterator[None]:
    """Keep the collector from running meanwhile, and from looking at what has come into being ever after.

    Modules are there to stay. To look for garbage among them as they come takes a twelfth of a start, and
    each full collection later on, the one at the end included, would look at them again. For processes that
    are the server's own from their beginning, and around imports of its own modules: what an application
    does while it is imported is its own affair.
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
