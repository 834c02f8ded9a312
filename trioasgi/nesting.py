"""What a call of the application has left open in its task: nurseries and cancel scopes around a `yield`.

The usual case is an async generator with a nursery (an AnyIO task group) around its `yield`, whose reader
stops early, as `async for` does when `send()` raises. The generator stays suspended, and its nursery stays
open in the task that iterated over it. Trio ends such a task with RuntimeError("Nursery stack corrupted")
after its coroutine has returned, where nothing within the task can catch it: the error reaches the task's own
nursery, and with it all other connections.

Where the call goes on for a while, as with a `finally:` that waits, the generator is collected meanwhile, and
Trio closes it in a task of its own. That task waits at the end of the nursery for the nursery's children; but
they wake the task which opened it, in the middle of another wait or after its end. That ends the whole run
with trio.TrioInternalError, and `guard_nurseries` is against it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

if TYPE_CHECKING:
    from collections.abc import Coroutine

logger = logging.getLogger("trioasgi")

_ADVICE: Final = (
    "%s: %s has ended and left a nursery, a task group or a cancel scope open in its task; it is cancelled. "
    "An async generator with one of them around its 'yield' does so when its reader stops early. The cure: "
    "'async with contextlib.aclosing(generator) as items: async for item in items: ...'; or run the nursery "
    "outside of the generator, and pass the items through a memory channel"
)


def abandon_nurseries(task: trio.lowlevel.Task) -> bool:
    """Cancel the nurseries that are open in `task`, and have Trio not wait for them any more; were there any?

    To be called when the call of the application is over, before the task waits again: a generator that is
    collected meanwhile is closed by a task of Trio's, which would wake the wrong task.

    It does what Trio does with the open nurseries of a task that ends (`task_exited`), but raises no error.
    """
    # Trio has no public way to end a nursery but from the block that opened it, which nobody can reach.
    nurseries = task._child_nurseries
    if not nurseries:
        return False
    for nursery in nurseries:
        nursery.cancel_scope.cancel()
        nursery._closed = True
    nurseries.clear()
    return True


def report_left_open(who: str, what: str) -> None:
    """Log that `what`, which ran for `who`, has left something open, and how to mend it."""
    logger.error(_ADVICE, who, what)


# Trio's own; a version of it that has another name for this is served without the guard.
_end_in_own_task = getattr(trio.Nursery, "_nested_child_finished", None)


def guard_nurseries() -> None:
    """From now on, have the end of a nursery's block be an error in any task but the one that opened it.

    It is one in Trio as well, but one that corrupts Trio's own state. This is for the whole process, and does
    nothing to a nursery that is used as it should be.
    """
    # There is nowhere else to stand between a generator that is collected and Trio.
    if _end_in_own_task is not None:
        trio.Nursery._nested_child_finished = _end_nursery  # type: ignore[method-assign, assignment]


def _end_nursery(
    nursery: trio.Nursery, exc: BaseException | None
) -> Coroutine[object, object, BaseException | None]:
    if nursery._parent_task is current_task() and _end_in_own_task is not None:
        own: Coroutine[object, object, BaseException | None] = _end_in_own_task(nursery, exc)
        return own
    return _end_in_another_task(nursery, exc)


async def _end_in_another_task(nursery: trio.Nursery, exc: BaseException | None) -> BaseException | None:
    _take_out(nursery._parent_task, nursery)
    raise RuntimeError(
        f"the nursery that {nursery._parent_task!r} has opened is closed by {current_task()!r}; its tasks "
        "are cancelled"
    ) from exc


def _take_out(task: trio.lowlevel.Task, nursery: trio.Nursery) -> None:
    """Take `task` out of the block of a nursery that it has opened, wherever it is by now, and cancel the
    others in it.
    """
    nursery._closed = True
    if nursery in task._child_nurseries:
        task._child_nurseries.remove(nursery)
    status = nursery.cancel_scope._cancel_status
    if status is None:
        return  # the block has ended, though not well
    outer = status.parent
    if outer is not None and task._cancel_status is status:
        task._activate_cancel_status(outer)
    elif outer is not None:
        # What the task has entered since goes on within what there was around the nursery.
        for inner in status.children:
            if inner.encloses(task._cancel_status):
                inner.parent = outer
    nursery.cancel_scope.cancel()
    status.close()
