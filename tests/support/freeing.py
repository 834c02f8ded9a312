"""What is freed at once, without the garbage collector."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from trioasgi.net.stream import HubStream


@contextmanager
def uncollected() -> Iterator[list[str]]:
    """Do without the garbage collector within the block; then the list has the types of ours, and of
    exceptions, that only it could have freed.
    """
    found: list[str] = []
    gc.collect()
    _kept[:] = _connections()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += (kind.__name__ for kind in map(type, gc.garbage) if _counts(kind))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        _kept.clear()


def _counts(kind: type) -> bool:
    return kind.__module__.startswith("trioasgi.") or issubclass(kind, BaseException)


_kept: list[HubStream | ssl.SSLObject] = []
"""What earlier tests have left: pytest keeps exceptions that are parameters, and their tracebacks."""


def _connections() -> list[HubStream | ssl.SSLObject]:
    return [
        each
        for each in gc.get_objects()
        if isinstance(each, HubStream) or (isinstance(each, ssl.SSLObject) and each.server_side)
    ]


def _made() -> list[HubStream | ssl.SSLObject]:
    return [each for each in _connections() if not any(each is kept for kept in _kept)]


def connections() -> int:
    """How many connections the hub and, on the server's side, OpenSSL have; within `uncollected`, those that
    were made there.
    """
    return len(_made())


def server_ssl_objects() -> int:
    """As `connections`, of OpenSSL alone."""
    return sum(isinstance(each, ssl.SSLObject) for each in _made())
