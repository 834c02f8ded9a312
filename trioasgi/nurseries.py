"""Nurseries and cancel scopes that a call of the application has left open in its task, around a `yield`.

In the usual case an async generator has a nursery (an AnyIO task group) around its `yield`, and its reader
stops early, as `async for` does when `send()` raises. The generator stays suspended, and its nursery stays
open in the task that iterated over it. When the coroutine of that task has returned, Trio ends the task with
RuntimeError("Nursery stack corrupted"). No code in the task can catch this error. It reaches the nursery of
the task, and with it all other connections.

If the call goes on for a while, the generator may be collected meanwhile. Then Trio closes it in another
task. That task waits at the end of the nursery for its children. But the children wake the task that opened
the nursery, in the middle of another wait or after its end, and that ends the whole run with
trio.TrioInternalError. `guard_nurseries` prevents it.

The tasks in such a nursery are cancelled, but no task waits for them. If one of them is shielded and still
runs when the main task has ended, `trio.run` fails with TrioInternalError. So a server that ends waits for
the tasks that come from its calls, with a deadline (`end_left_behind`).

Trio has no public way to do any of this. This module alone changes private attributes of Trio; others only
read some.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio
from outcome import Error
from trio.lowlevel import current_task

from trioasgi.tasks import start_soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
    from types import TracebackType

    from outcome import Outcome
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
"""Seconds that a cancelled task has for what it shields from cancellation."""

_VERSION: Final = trio.__version__

_NAMES_SHOWN: Final = 5
"""A log line names at most so many kinds of tasks."""


def abandon_nurseries(task: Task) -> bool:
    """Cancel the nurseries that are open in `task`, and make Trio forget them. True if there were any.

    Call this when the call of the application is over, and before the task waits again: Trio may close the
    collected generator in another task, and that would wake this one.

    Trio does the same with the open nurseries of a task that ends (`task_exited`), and raises an error then.
    """
    # Only the block that opened a nursery can end it, and that block is out of reach.
    nurseries = task._child_nurseries
    if not nurseries:
        return False
    for nursery in nurseries:
        nursery.cancel_scope.cancel()
        nursery._closed = True
    nurseries.clear()
    return True


class Abandoning:
    """Run a block, which calls the application, inside `scope`.

    Nurseries and scopes that the block leaves open do not outlive it. An open scope would stay around what
    the task does later, and its deadline would cancel that.

    No generator with @contextmanager: since Python 3.12 its frame and the Cancelled that ends there refer to
    each other, and keep all that the block had.
    """

    found = False
    """Has the block left something open?"""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._task = current_task()

    def __enter__(self) -> Abandoning:
        self._scope.__enter__()
        self._innermost = self._task._cancel_status
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self.found = abandon_nurseries(self._task) or self._task._cancel_status is not self._innermost
        try:
            is_caught = self._scope.__exit__(kind, exc, traceback)
        except RuntimeError:
            # Trio's error: the block of `scope` has ended before the block of an inner one.
            if not self.found:
                raise
            return True
        finally:
            del exc, traceback
        return is_caught


def report_left_open(who: str, what: str) -> None:
    """Log that `what`, which ran for `who`, has left something open, and how to fix that."""
    logger.error(_ADVICE, who, what)


# If a version of Trio has other names for these, there is no guard.
_end_in_own_task = getattr(trio.Nursery, "_nested_child_finished", None)
_note_child = getattr(trio.Nursery, "_child_finished", None)


def guard_nurseries() -> None:
    """From now on, raise RuntimeError when a task ends the block of a nursery that another task has opened,
    and let a nursery fail as any other if an error in it has a `repr()` that fails.

    Trio itself does not check the first, and its state is corrupted then. It shows each error as the reason
    why the nursery is cancelled. If that fails for the error of a task, it ends the whole run.

    The guard holds for the whole process. It does not change a nursery that is used correctly.
    """
    # There is no other place to intercept a collected generator.
    if _end_in_own_task is not None:
        trio.Nursery._nested_child_finished = _end_nursery  # type: ignore[method-assign, assignment]
    if _note_child is not None:
        trio.Nursery._child_finished = _end_child  # type: ignore[method-assign, assignment]


def _end_nursery(
    nursery: trio.Nursery, exc: BaseException | None
) -> Coroutine[object, object, BaseException | None]:
    if nursery._parent_task is current_task() and _end_in_own_task is not None:
        if exc is not None and not _can_be_shown(exc):
            _add_error(nursery, exc)
            exc = None
        own: Coroutine[object, object, BaseException | None] = _end_in_own_task(nursery, exc)
        return own
    return _end_in_another_task(nursery, exc)


def _end_child(nursery: trio.Nursery, task: Task, result: Outcome[object]) -> None:
    try:
        if _note_child is not None:
            _note_child(nursery, task, result)
    except BaseException:
        if not isinstance(result, Error):
            raise
        _add_error(nursery, result.error)
        nursery._check_nursery_closed()


def _can_be_shown(exc: BaseException) -> bool:
    try:
        repr(exc)
    except BaseException:  # noqa: BLE001 - it may run any code
        return False
    return True


def _add_error(nursery: trio.Nursery, exc: BaseException) -> None:
    """As Trio does it, but without the reason."""
    nursery._pending_excs.append(exc)
    nursery.cancel_scope.cancel()


async def _end_in_another_task(nursery: trio.Nursery, exc: BaseException | None) -> BaseException | None:
    _take_out(nursery._parent_task, nursery)
    raise RuntimeError(
        f"the nursery that {nursery._parent_task!r} has opened is closed by {current_task()!r}; its tasks "
        "are cancelled"
    ) from exc


def _take_out(task: trio.lowlevel.Task, nursery: trio.Nursery) -> None:
    """Take `task` out of the block of a nursery that it has opened, and cancel the nursery's tasks. `task`
    may be anywhere by now.
    """
    nursery._closed = True
    if nursery in task._child_nurseries:
        task._child_nurseries.remove(nursery)
    status = nursery.cancel_scope._cancel_status
    if status is None:
        return  # the block has ended with an error
    outer = status.parent
    if outer is not None and task._cancel_status is status:
        task._activate_cancel_status(outer)
    elif outer is not None:
        # Scopes that the task has entered since move into the scope around the nursery.
        for inner in status.children:
            if inner.encloses(task._cancel_status):
                inner.parent = outer
    nursery.cancel_scope.cancel()
    status.close()


async def end_left_behind(
    ours: Collection[trio.Nursery],
    wait_over: Callable[[], Awaitable[None]],
    report: Callable[[BaseException], None] = lambda _: None,
) -> bool:
    """Wait for the tasks that calls have left in abandoned nurseries. True if all of them ended by
    themselves.

    The calls are those made in the nurseries `ours`. The tasks were cancelled when they were left, so those
    that still run are shielded. Their shields are removed LAST_MOMENTS after `wait_over` has
    returned, or after this wait is cancelled. A task in a thread is waited for
    without limit, as Trio does. `report` is called with each exception that a task raises, but not with
    Cancelled.
    """
    for _ in range(2):  # tasks that were left just now end, unless they are shielded
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
        all_ended = await _wait_for(left, wait_over, report) and all_ended
    return all_ended


def _find_left_behind(ours: frozenset[trio.Nursery]) -> list[Task]:
    """The tasks from calls in `ours` whose nursery is no longer open, or belongs to a task that has ended.

    A task that the application has started may have left the nursery, so its end was not seen here.
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
    """The nurseries around a task, innermost first."""
    while (nursery := task.parent_nursery) is not None:
        yield nursery
        task = nursery.parent_task


def is_within(nurseries: Collection[trio.Nursery]) -> bool:
    """Does the current task run in one of `nurseries`, or in a nursery below one?"""
    return any(nursery in nurseries for nursery in _ancestors(current_task()))


async def _wait_for(
    left: Iterable[Task],
    wait_over: Callable[[], Awaitable[None]],
    report: Callable[[BaseException], None],
) -> bool:
    """Adopt the tasks `left` and wait until they have ended. True if they ended by themselves."""
    last_moments = trio.CancelScope(shield=True)
    remover = _ShieldRemover()
    async with trio.open_nursery() as beside:
        try:
            async with trio.open_nursery() as nursery:
                for task in left:
                    _adopt(task, nursery)
                start_soon(beside, remover.remove_after, nursery, wait_over, last_moments)
        except BaseException as raised:  # noqa: BLE001 - a group, unless the run is not strict about that
            for error in _own_failures(raised):
                report(error)
        finally:
            last_moments.cancel()
            beside.cancel_scope.cancel()
    return not remover.has_removed_shields


class _ShieldRemover:
    """Removes the shields of tasks that do not end."""

    has_removed_shields = False

    async def remove_after(
        self,
        nursery: trio.Nursery,
        wait_over: Callable[[], Awaitable[None]],
        last_moments: trio.CancelScope,
    ) -> None:
        """Wait for `wait_over`, and then remove the shields of the tasks in `nursery`, again and again.

        `last_moments` is shielded. The caller cancels it when the tasks have ended.
        """
        try:
            await wait_over()
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
    """Move a task to `nursery`, which then waits for it, as Trio does at the end of `start()`."""
    assert task._parent_nursery is not None
    task._parent_nursery._children.remove(task)
    task._parent_nursery = nursery
    nursery._children.add(task)


def _remove_shields(tasks: Iterable[Task]) -> None:
    """Remove the shields of these tasks and their descendants, so that the cancellation reaches them."""
    todo = [*tasks]
    while todo:
        task = todo.pop()
        todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        status: CancelStatus | None = task._cancel_status
        while status is not None and not status._scope.cancel_called:
            status._scope.shield = False
            status = status.parent


def _own_failures(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions of the tasks themselves. Trio's own are left out: Cancelled, and the RuntimeError about
    the abandoned nursery, whose context is the exception of the task.
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
