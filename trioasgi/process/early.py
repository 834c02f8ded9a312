"""What a process of the command line does on SIGHUP and SIGUSR1 before the server has its handlers: nothing.

By their default actions they would end it. What they ask for is done at the start anyway.
"""

import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


def survive_early_signals() -> None:
    """Let these signals do nothing, unless they are ignored or handled already. For the main thread only."""
    if sys.platform == "win32":
        return
    for number in (signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, too_early)


def too_early(_: int, __: "FrameType | None") -> None:
    """Do nothing, on purpose."""
