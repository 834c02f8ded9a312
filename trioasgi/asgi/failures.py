"""Sorts what an application has raised: its own failure, a disconnect, or a cancellation.

Only Trio's own cancellation and a real signal are raised further. Any other exception, of any class, is the
failure of the call that raised it.
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
    """Split `exc` into the application's own part, and the part that must be raised further (cancellation).

    Call this where `exc` was caught, in the task that raised it.
    """
    try:
        return _split(exc)
    except Exception:  # noqa: BLE001 - its class may run any code, and groups may be nested without end
        # If this loses a cancellation, that comes again at the next wait.
        return exc, None


def _split(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    if isinstance(exc, BaseExceptionGroup):
        # For example, a nursery of the application that failed while it was cancelled from outside.
        return _split_group(exc)
    return (None, exc) if _is_from_outside(exc) else (exc, None)


def _split_group(
    group: BaseExceptionGroup[BaseException],
) -> tuple[BaseException | None, BaseException | None]:
    """As `BaseExceptionGroup.split`. That calls a method of the group's own class, which may
    raise anything.
    """
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
            # If the application keeps a Cancelled and raises it when nothing is cancelled, that is its own
            # failure: no scope would catch it.
            return trio.current_effective_deadline() == -math.inf
        case KeyboardInterrupt():
            return _is_raised_by_handler(exc)
        case GeneratorExit():
            # The interpreter closes coroutines when it ends. Then no task runs this one.
            return not trio.lowlevel.in_trio_task()
    return False


def _is_raised_by_handler(exc: BaseException) -> bool:
    """Has the handler of SIGINT raised it (Trio's, or the program's own), and not the application?"""
    if threading.current_thread() is not threading.main_thread():
        return False  # Python runs handlers in the main thread alone
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True  # a handler written in C has no frame to compare with
    code = _raising_code(exc)
    return code is not None and code is getattr(handler, "__code__", None)


def _raising_code(exc: BaseException) -> CodeType | None:
    traceback = exc.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code


def is_disconnect(exc: BaseException) -> bool:
    """Is this only the ClientDisconnected of the call's own `send()` or `receive()`?

    It may come in the groups that nurseries make, also with GeneratorExit: that comes from a closed generator
    with a nursery. It may also be what the framework's own exception comes of. Ask only if these would tell
    the call of a disconnect: otherwise it is that of another call, and this one's client waits for an answer.
    """
    try:
        return _is_disconnect(exc)
    except Exception:  # noqa: BLE001 - as in split_failure
        return False


def _is_disconnect(exc: BaseException) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_is_disconnect, exc.exceptions))
    return isinstance(exc, GeneratorExit) or _comes_of_disconnect(exc)


def _comes_of_disconnect(exc: BaseException | None) -> bool:
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_comes_of_disconnect, exc.exceptions))
    if exc is None or isinstance(exc, ClientDisconnected):
        return exc is not None
    if exc.__cause__ is not None:
        return _comes_of_disconnect(exc.__cause__)
    # A framework may raise its own exception in its `except OSError:`. One of Python's own classes in such a
    # block is a bug of the application.
    return type(exc).__module__ != "builtins" and _comes_of_disconnect(exc.__context__)
