"""What an application raised, judged: its own failure, news that the client has gone, or neither."""

from __future__ import annotations

from typing import Final

import trio

from trioasgi.errors import ClientDisconnected

_FROM_OUTSIDE: Final = (trio.Cancelled, KeyboardInterrupt, GeneratorExit)
"""What is not the application's own to raise.

SystemExit is, and asyncio.CancelledError, which is no Exception either.
"""


def split_failure(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """The part of `exc` that is the application's own, and the part that has to go on (cancellation)."""
    if isinstance(exc, BaseExceptionGroup):
        # An application's nursery that was cancelled from outside while it failed.
        outside, ours = exc.split(_FROM_OUTSIDE)
        return ours, outside
    if isinstance(exc, _FROM_OUTSIDE):
        return None, exc
    return exc, None


def is_disconnect(exc: BaseException) -> bool:
    """Is this nothing but the news from `send()` that the client has gone?

    Also in the groups that nurseries make of it, and as the framework's own exception raised while it was
    handled.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(is_disconnect(inner) for inner in exc.exceptions)
    if isinstance(exc, ClientDisconnected) or isinstance(exc.__cause__, ClientDisconnected):
        return True
    # A framework's own exception for it, raised in its `except OSError:`; but a mistake in such a block,
    # which is one of Python's own exceptions, is a mistake.
    return isinstance(exc.__context__, ClientDisconnected) and type(exc).__module__ != "builtins"
