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

The tasks in such a nursery are cancelled, but nobody waits for them: `trio.run` fails with TrioInternalError
if one of them, shielded from that, is still there when the main task has ended. A server that ends waits for
those that come from its calls, with a deadline (`end_left_behind`).

Trio has no public way to do any of this. This is the one module that changes what is private to it; elsewhere
it is only read.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio
from trio.lowlevel import current_task

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator

    from trio._core._run import CancelStatus
    from trio.lowlevel import Task

logger = logging.getLogger("trioasgi")

_ADVICE: Final = (
    "%s: %s has ended and left a nursery, a task group or a cancel scope open in its task; it is cancelled. "
    "An async generator with one of them around its 'yield' does so when its reader stops early. The cure: "
    "'async with contextlib.aclosing(generator) as items: async for item in items: ...'; or run the nursery "
    "outside of the generator, and pass the items through a memory channel"
)


LAST_MOMENTS: Final = 2.0
"""Seconds that a task gets, once it is cancelled, for what it shields from that."""

_VERSION: Final = trio.__version__

_NAMES_SHOWN: Final = 5
"""How many kinds of tasks a log line names."""


def abandon_nurseries(task: Task) -> bool:
    """Cancel the nurseries that are open in `task`, and have Trio not wait for them any more; were there any?

    To be called when the call of the application is over, before the task waits again: a generator that is
    collected meanwhile is closed by a task of Trio's, which would wake the wrong task.

    It does what Trio does with the open nurseries of a task that ends (`task_exited`), but raises no error.
    """
    # A nursery can be ended only from the block that opened it, which nobody can reach.
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


async def end_left_behind(
    ours: Collection[trio.Nursery],
    deadline: float,
    report: Callable[[BaseException], None] = lambda _: None,
) -> bool:
    """Wait for the tasks that calls, made in the nurseries `ours`, have left in nurseries of which nobody
    takes care any more; did they all end by themselves?

    They were cancelled when they were left; those that are still here are shielded from it. LAST_MOMENTS
    after `deadline`, in Trio's time, or after the cancellation of this wait, their shields are removed. What
    runs in a thread is waited for without limit, as Trio does. `report` is called with each exception that
    one of them raises, Trio's Cancelled aside.
    """
    for _ in range(2):  # what was left just now and is not shielded ends
        await trio.lowlevel.cancel_shielded_checkpoint()
    all_ended = True
    while left := _find_left_behind(frozenset(ours)):
        if not _can_be_adopted(left[0]):
            logger.error("%s are left behind, and Trio %s lets nobody wait for them", _names(left), _VERSION)
            return False
        logger.warning(
            "calls of the application have left nurseries open, and tasks in them that are shielded from "
            "cancellation: the server waits for %s",
            _names(left),
        )
        all_ended = await _wait_for(left, deadline, report) and all_ended
    return all_ended


def _find_left_behind(ours: frozenset[trio.Nursery]) -> list[Task]:
    """The tasks from calls in `ours` whose nursery is open no more, or is that of a task which has ended.

    Their nursery may have been left by a task of the application's own, which nobody here has seen end.
    """
    runner = getattr(current_task(), "_runner", None)
    tasks: Collection[Task] = getattr(runner, "tasks", ())
    return [task for task in tasks if _is_left_behind(task, tasks) and not ours.isdisjoint(_ancestors(task))]


def _is_left_behind(task: Task, living: Collection[Task]) -> bool:
    nursery = task.parent_nursery
    if nursery is None:
        return False
    parent = nursery.parent_task
    return parent not in living or nursery not in parent.child_nurseries


def _ancestors(task: Task) -> Iterator[trio.Nursery]:
    """The nurseries around a task, from the inside."""
    while (nursery := task.parent_nursery) is not None:
        yield nursery
        task = nursery.parent_task


async def _wait_for(left: Iterable[Task], deadline: float, report: Callable[[BaseException], None]) -> bool:
    """Be the parent of the tasks `left` until they have ended; was that by themselves?"""
    last_moments = trio.CancelScope(shield=True)
    remover = _ShieldRemover()
    async with trio.open_nursery() as beside:
        try:
            async with trio.open_nursery() as nursery:
                for task in left:
                    _adopt(task, nursery)
                beside.start_soon(remover.remove_after, nursery, deadline, last_moments)
        except BaseExceptionGroup as group:
            for error in _own_failures(group):
                report(error)
        finally:
            last_moments.cancel()
            beside.cancel_scope.cancel()
    return not remover.has_removed_shields


class _ShieldRemover:
    """Removes the shields of tasks that do not end."""

    has_removed_shields = False

    async def remove_after(
        self, nursery: trio.Nursery, deadline: float, last_moments: trio.CancelScope
    ) -> None:
        """Wait until the deadline, and then do what ends the tasks in `nursery`.

        `last_moments` is shielded, and cancelled when they have ended.
        """
        try:
            await trio.sleep_until(deadline)
        finally:
            with last_moments:
                await trio.sleep(LAST_MOMENTS)
                logger.warning("%s: cancelled in spite of a shield", _names(nursery.child_tasks))
                self.has_removed_shields = True
                _remove_shields(nursery.child_tasks)
                await trio.sleep(LAST_MOMENTS)
                logger.warning("%s: still running (in a thread?)", _names(nursery.child_tasks))
                while True:  # they may open further shields while they end
                    _remove_shields(nursery.child_tasks)
                    await trio.sleep(LAST_MOMENTS)


def _can_be_adopted(task: Task) -> bool:
    """Does Trio have the names that `_adopt` and `_remove_shields` use?"""
    status = getattr(task, "_cancel_status", None)
    has_names = hasattr(task, "_parent_nursery") and hasattr(status, "_scope") and hasattr(status, "parent")
    return has_names and hasattr(task.parent_nursery, "_children")


def _adopt(task: Task, nursery: trio.Nursery) -> None:
    """Have `nursery` wait for a task of another one, as Trio does with a task that `start()` hands on."""
    assert task._parent_nursery is not None
    task._parent_nursery._children.remove(task)
    task._parent_nursery = nursery
    nursery._children.add(task)


def _remove_shields(tasks: Iterable[Task]) -> None:
    """Let the cancellation of the nurseries that were left reach these tasks, and what they have started."""
    todo = [*tasks]
    while todo:
        task = todo.pop()
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        status: CancelStatus | None = task._cancel_status
        while status is not None and not status._scope.cancel_called:
            status._scope.shield = False
            status = status.parent


def _own_failures(error: BaseException | None) -> Iterator[BaseException]:
    """What the tasks have raised, without what Trio has: the cancellation of the nursery that they were left
    in, and its complaint that this has gone, which stands for what the task has raised.
    """
    match error:
        case BaseExceptionGroup():
            for inner in error.exceptions:
                yield from _own_failures(inner)
        case RuntimeError() if "stack corrupted" in str(error):
            yield from _own_failures(error.__context__)
        case None | trio.Cancelled():
            pass
        case _:
            yield error


def _names(tasks: Iterable[Task]) -> str:
    counts = Counter(task.name for task in tasks)
    names = [name if count == 1 else f"{name} ({count} times)" for name, count in counts.most_common()]
    return ", ".join(names[:_NAMES_SHOWN]) + (", and others" if len(names) > _NAMES_SHOWN else "")
