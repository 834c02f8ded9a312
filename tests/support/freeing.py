"""What is freed at once, without the garbage collector."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[list[str]]:
    """Do without the garbage collector within the block; then the list has the types of ours that only it
    could have freed.
    """
    found: list[str] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += (kind.__name__ for kind in map(type, gc.garbage) if kind.__module__.startswith("trioasgi."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def server_ssl_objects() -> int:
    """How many connections OpenSSL has on the server's side."""
    return sum(isinstance(each, ssl.SSLObject) and each.server_side for each in gc.get_objects())
