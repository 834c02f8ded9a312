"""Detects WSGI applications. It stands apart, because every application is checked but few need
the bridge.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable


def is_wsgi(app: object) -> bool:
    """Does `app` look like a WSGI application: not async, and called with two positional arguments?

    A class is one if two arguments make an instance, and its instances are iterable (PEP 3333, "The
    Application/Framework Side").
    """
    if isinstance(app, type):
        if _takes(app, 2) and not _takes(app, 0):
            return hasattr(app, "__iter__") and not hasattr(app, "__await__")
        return False
    if not callable(app) or inspect.iscoroutinefunction(app):
        return False
    if inspect.iscoroutinefunction(getattr(app, "__call__", None)):  # noqa: B004 - what it is, not whether
        return False
    return _takes(app, 2) and not _takes(app, 3)


def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except (TypeError, ValueError):
        return False
    return True
