"""Long steps of work take turns: each round of Trio's scheduler has at most one.

In one round Trio runs all tasks that are ready, one after the other. If a hundred tasks each do a long step
between two checkpoints, all others wait for a hundred steps. So a task waits here for its turn before each
long step. The others then wait for one step, however many connections a client opens.
"""

from __future__ import annotations

from collections import deque

from trio.lowlevel import (
    Abort,
    RunVar,
    Task,
    cancel_shielded_checkpoint,
    current_task,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)


class LongSteps:
    """The tasks of one Trio run that wait for a long step, in the order of their arrival."""

    __slots__ = ("_taken", "_tasks", "is_free")

    def __init__(self) -> None:
        self._tasks: deque[Task] = deque()
        self._taken = False  # does a task have the turn of the next round?
        self.is_free = False
        """Has this round had no long step? The hub sets this when a round begins."""

    def take(self) -> bool:
        if self._taken or not self.is_free:
            return False
        self.is_free = False
        return True

    @enable_ki_protection  # the turn that is taken must be passed on
    async def wait(self) -> None:
        if self._taken:
            task = current_task()
            self._tasks.append(task)
            try:
                await wait_task_rescheduled(_refuse_abort)
            except BaseException:  # not thrown by Trio (`net.waiting`)
                self._tasks.remove(task)
                raise
        else:
            self._taken = True
            try:
                await cancel_shielded_checkpoint()
            except BaseException:  # as above
                self._pass_on()
                raise
        self.is_free = False
        self._pass_on()

    def queued(self) -> frozenset[Task]:
        """Those that wait, except for the next one."""
        return frozenset(self._tasks)

    def _pass_on(self) -> None:
        # This round is ours. The next one is for the next task of the queue.
        if self._tasks:
            reschedule(self._tasks.popleft())
        else:
            self._taken = False


def _refuse_abort(_: object) -> Abort:
    return Abort.FAILED


_queue: RunVar[LongSteps] = RunVar("_queue")


def long_steps() -> LongSteps:
    """The long steps of this Trio run."""
    try:
        return _queue.get()
    except LookupError:
        queue = LongSteps()
        _queue.set(queue)
        return queue


def take_long_step() -> bool:
    """Take the turn of this round, without a checkpoint. False if it was taken, or if that is not known,
    because no hub tells of the rounds: then call `wait_for_long_step`.

    It is for a step that follows a wait. Many of them without a wait would keep the others waiting.
    """
    return long_steps().take()


async def wait_for_long_step() -> None:
    """Let the other tasks run, and wait for a round of the scheduler without another long step.

    Always a checkpoint. It cannot be cancelled, because the caller may be in the middle of a message. It
    waits for one step of each task that came before.
    """
    await long_steps().wait()
