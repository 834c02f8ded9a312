"""What an application raised, judged: its own failure, news that the client has gone, or neither.

Only Trio's own cancellation and a real signal go on. Everything else, of whatever class, is the failure of
the call that raised it.
"""

from __future__ import annotations

import math
import signal
import threading
from typing import TYPE_CHECKING

import trio

from trioasgi.errors import ClientDisconnected

if TYPE_CHECKING:
    from types import CodeType


def split_failure(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """The part of `exc` that is the application's own, and the part that has to go on (cancellation).

    To be called where `exc` was caught, in the task that raised it.
    """
    try:
        return _split(exc)
    except Exception:  # noqa: BLE001 - its class may do anything, and groups may hold groups without end
        # A cancellation that is lost in it comes again at the next wait.
        return exc, None


def _split(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    if isinstance(exc, BaseExceptionGroup):
        # An application's nursery that was cancelled from outside while it failed.
        return _split_group(exc)
    return (None, exc) if _is_from_outside(exc) else (exc, None)


def _split_group(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseException | None, BaseException | None]:
    """As `BaseExceptionGroup.split`, which calls a method of the group's own class: it may raise anything."""
    parts = [_split(inner) for inner in group.exceptions]
    ours = [failure for failure, _ in parts if failure is not None]
    outside = [rest for _, rest in parts if rest is not None]
    if not outside:
        return group, None
    return _part(group, ours), _part(group, outside)


def _part(group: BaseExceptionGroup[BaseException], exceptions: list[BaseException]) -> BaseException | None:
    if not exceptions:
        return None
    part = BaseExceptionGroup(group.message, exceptions)
    part.__cause__, part.__context__ = group.__cause__, group.__context__
    part.__suppress_context__ = group.__suppress_context__
    return part.with_traceback(group.__traceback__)


def _is_from_outside(exc: BaseException) -> bool:
    match exc:
        case trio.Cancelled():
            # One that the application has kept and raises again, when nothing is cancelled, is a mistake of
            # its own: no scope would catch it.
            return trio.current_effective_deadline() == -math.inf
        case KeyboardInterrupt():
            return _is_raised_by_handler(exc)
        case GeneratorExit():
            # A coroutine that is closed, as the interpreter does when it ends; not one that its task runs.
            return not trio.lowlevel.in_trio_task()
    return False


def _is_raised_by_handler(exc: BaseException) -> bool:
    """Does it come from the handler of SIGINT (Trio's, or the program's own), and not from a `raise`?"""
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs handlers in the main thread alone
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True  # written in C: it leaves no frame to tell by
    code = _raising_code(exc)
    return code is not None and code is getattr(handler, "__code__", None)


def _raising_code(exc: BaseException) -> CodeType | None:
    traceback = exc.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code


def is_disconnect(exc: BaseException, *, gone: bool) -> bool:
    """Is this nothing but the news from `send()` that the client has gone?

    Also in the groups that nurseries make of it, as the framework's own exception raised while it was
    handled, and, where the client is `gone`, as the end of a generator with a nursery that is closed because
    of it: of its GeneratorExit Trio makes a group.
    """
    try:
        return _is_disconnect(exc, gone=gone)
    except Exception:  # noqa: BLE001 - as in split_failure
        return False


def _is_disconnect(exc: BaseException, *, gone: bool) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(_is_disconnect(inner, gone=gone) for inner in exc.exceptions)
    if isinstance(exc, GeneratorExit):
        return gone
    if isinstance(exc, ClientDisconnected) or isinstance(exc.__cause__, ClientDisconnected):
        return True
    # A framework's own exception for it, raised in its `except OSError:`; but a mistake in such a block,
    # which is one of Python's own exceptions, is a mistake.
    return isinstance(exc.__context__, ClientDisconnected) and type(exc).__module__ != "builtins"
