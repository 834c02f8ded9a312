"""How a process of ours gets its modules: without the garbage collector looking at them again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


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
