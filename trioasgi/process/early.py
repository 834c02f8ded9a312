"""What a process does on SIGHUP and SIGUSR1 before the server has its handlers: nothing.

By their default actions they would end it. What they ask for is done at the start anyway.
"""

import signal
import sys
import threading
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


def survive_early_signals() -> "tuple[signal.Signals, ...]":
    """Let these signals do nothing, unless they are ignored or handled already. For the main thread only.

    Returns those that do nothing from now on.
    """
    if sys.platform == "win32":
        return ()
    free = tuple(
        number for number in (signal.SIGHUP, signal.SIGUSR1) if signal.getsignal(number) is signal.SIG_DFL
    )
    for number in free:
        signal.signal(number, too_early)
    return free


@contextmanager
def surviving_early_signals() -> "Iterator[None]":
    """As `survive_early_signals`, for a program whose signals are its own again after the block."""
    is_main = threading.current_thread() is threading.main_thread()
    ours = survive_early_signals() if is_main else ()
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) is too_early:
                signal.signal(number, signal.SIG_DFL)


def too_early(_: int, __: "FrameType | None") -> None:
    """Do nothing, on purpose."""
