"""Waits that end with `trio.lowlevel.reschedule`, for those who wait in the same way again and again.

`wait_task_rescheduled(abort)` makes an object that says how Trio aborts the wait, and yields it to Trio. Here
`tell(abort)` makes that object once, and each `wait_again` of it is a wait. Of the instructions of an echoed
WebSocket message this saves 9 %, of a request 2 %.

It is only right if Trio takes the object as a value, and notes nothing in it. So does Trio 0.30 to 0.35: two
such objects are equal. If they are not, each wait is a `wait_task_rescheduled`.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from trio.lowlevel import wait_task_rescheduled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from trio.lowlevel import Abort

    AbortFunction = Callable[[Any], Abort]


def _tell(abort: AbortFunction) -> Any:
    wait = wait_task_rescheduled(abort)  # noqa: ASYNC105 - only its beginning is needed
    told = wait.send(None)
    wait.close()
    return told


@types.coroutine
def _wait_again(told: Any) -> Generator[Any, Any, Any]:
    return (yield told).unwrap()


def waits(*, are_values: bool) -> tuple[Callable[[AbortFunction], Any], Callable[[Any], Awaitable[Any]]]:
    """`tell` and `wait_again`."""
    if are_values:
        return _tell, _wait_again
    return lambda abort: abort, wait_task_rescheduled


def _abort(_: object) -> Abort:
    raise NotImplementedError


tell, wait_again = waits(are_values=_tell(_abort) == _tell(_abort))
