"""How the work for an input grows with it.

Where Python does the work, its lines are counted. A regular expression, or a copy of bytes, is one step
whatever it takes: there the process's own time is compared for sizes far apart. An input that is 16 times as
long may take 64 times as long, where the square would be 256. A machine that is busy with something else may
make one comparison wrong, but the square of the input is there in all of them: the best of several counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

FACTOR = 16
MOST = 64
TRIES = 5


def seconds(action: Callable[[], object]) -> float:
    """CPU time of this process for `action`: the least of three runs."""
    times = []
    for _ in range(3):
        before = time.process_time()
        action()
        times.append(time.process_time() - before)
    return min(times)


def grows_no_faster_than_its_input(action: Callable[[int], object], size: int) -> bool:
    """Does `action` for 16 times `size` take less than 64 times as long as for `size`?"""

    def is_so() -> bool:
        # Below a quarter of a millisecond the clock and what surrounds the work would be compared.
        small = max(seconds(lambda: action(size)), 0.000_25)
        return seconds(lambda: action(FACTOR * size)) <= MOST * small

    return any(is_so() for _ in range(TRIES))


def lines(action: Callable[[], object]) -> int:
    """How many lines of Python `action` runs."""
    count = 0

    def trace(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count
