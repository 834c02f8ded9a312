"""Long steps of work take turns: one in each round of the scheduler, whoever wants it.

Trio runs all tasks that are ready in one round, one after the other. A task that has much to do and lets the
others run from time to time keeps them waiting for one step of it; a hundred such tasks, for a hundred steps.
Those who have a long step ahead wait here for their turn, so the others wait for one step, however many
connections a client opens.
"""

from __future__ import annotations

from collections import deque

from trio.lowlevel import (
    Abort,
    RunVar,
    Task,
    cancel_shielded_checkpoint,
    current_task,
    reschedule,
    wait_task_rescheduled,
)


class _Queue:
    """The tasks of one Trio run that have a long step ahead, in the order in which they came."""

    __slots__ = ("_taken", "_tasks")

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._taken = False  # has somebody the turn of the next round?

    async def wait(self) -> None:
        if self._taken:
            self._tasks.append(current_task())
            await wait_task_rescheduled(_refuse_abort)
        else:
            self._taken = True
            await cancel_shielded_checkpoint()
        # This round is ours. The next is for whoever comes behind us.
        if self._tasks:
            reschedule(self._tasks.popleft())
        else:
            self._taken = False


def _refuse_abort(_: object) -> Abort:
    return Abort.FAILED


_queue: RunVar[_Queue] = RunVar("_queue")


async def wait_for_long_step() -> None:
    """Let the others run, and wait until a round of the scheduler has no other long step.

    Always a checkpoint. Not to be cancelled: the caller may be in the middle of something; it lasts no longer
    than one step of each that came before.
    """
    try:
        queue = _queue.get()
    except LookupError:
        queue = _Queue()
        _queue.set(queue)
    await queue.wait()
