"""What a process does at this moment: the stacks of its threads, and the tree of its Trio tasks.

For a log, when a worker has given no sign of life. It is made in another thread than the loop's, which may be
blocked: so it only reads, and what it says may be a moment old.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from .tracebacks import is_the_users

if TYPE_CHECKING:
    from types import FrameType

    import trio

_MOST_TASKS: Final = 500
_MOST_THREADS: Final = 100
_MOST_FRAMES: Final = 30


def dump(root: trio.lowlevel.Task | None) -> str:
    """The stacks of all threads but this one, and the tasks below `root`, as text of several lines."""
    parts = ["Threads:", *_threads()]
    if root is not None:
        parts += ["Tasks:", *_tasks(root)]
    return "\n".join(parts)


def place(root: trio.lowlevel.Task | None) -> str:
    """Where the application is, as in a traceback: in the main thread, or where its tasks below `root` wait.
    Empty if it runs nowhere.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = () if frame is None else traceback.extract_stack(frame)
    if found := _shown(stack):
        return found
    return "" if root is None else "\n".join(filter(None, map(_shown, _stacks_of_tasks(root))))


def _shown(stack: Iterable[traceback.FrameSummary]) -> str:
    """The part of the stack that is no loop's and no server's."""
    users = [entry for entry in stack if is_the_users(entry.filename) and not _is_machinery(entry.filename)]
    return "".join(traceback.format_list(users[-_MOST_FRAMES:]))


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen") or f"{os.sep}trio{os.sep}" in filename or "outcome" in filename


def _stacks_of_tasks(root: trio.lowlevel.Task) -> Iterator[traceback.StackSummary]:
    waiting = [root]
    for _ in range(_MOST_TASKS):
        if not waiting:
            return
        task = waiting.pop()
        yield traceback.StackSummary.extract(task.iter_await_frames())
        waiting += (child for nursery in task.child_nurseries for child in tuple(nursery.child_tasks))


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    others = [(ident, frame) for ident, frame in frames.items() if ident != threading.get_ident()]
    for ident, frame in others[:_MOST_THREADS]:
        yield f"  {names.get(ident, 'thread')} ({ident})"
        yield from _stack(frame)
    if len(others) > _MOST_THREADS:
        yield f"  and {len(others) - _MOST_THREADS} more"


def _stack(frame: FrameType) -> Iterator[str]:
    stack = traceback.extract_stack(frame, limit=-_MOST_FRAMES)
    for entry in traceback.format_list(stack):
        for line in entry.rstrip().splitlines():
            yield f"    {line}"


def _tasks(root: trio.lowlevel.Task) -> Iterator[str]:
    """A line for each task, indented below its parent, with the place where it waits."""
    waiting: list[tuple[trio.lowlevel.Task, int]] = [(root, 1)]
    shown = 0
    while waiting:
        task, depth = waiting.pop()
        if shown == _MOST_TASKS:
            yield f"  and {len(waiting) + 1} more"
            return
        shown += 1
        yield f"{'  ' * depth}{task.name}{_place(task)}"
        for nursery in task.child_nurseries:
            waiting += ((child, depth + 1) for child in tuple(nursery.child_tasks))


def _place(task: trio.lowlevel.Task) -> str:
    """Where the task waits: the innermost frame that is not Trio's."""
    found = ""
    for frame, line in task.iter_await_frames():
        name = frame.f_globals.get("__name__", "")
        if not str(name).startswith(("trio.", "outcome")):
            found = f" at {frame.f_code.co_filename}:{line} in {frame.f_code.co_name}"
    return found
