"""`python -m trioasgi.worker`: where a worker process begins.

Little is imported here, so that the terminal's Ctrl-C is in hand before anything that takes a while.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """Serve as the order on stdin says, and exit with an ExitStatus."""
    # Ctrl-C reaches every process of the terminal's group; the supervisor is the one to act on it. A handler
    # and not SIG_IGN, which the application's own children would inherit.
    signal.signal(signal.SIGINT, ignore_interrupt)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, ignore_interrupt)
    commands = _claim_stdin()
    from trioasgi.process.imports import uncollected_imports

    with uncollected_imports():
        from trioasgi.worker.work import work

    sys.exit(work(commands, ignore_interrupt))


def ignore_interrupt(_: int, __: FrameType | None) -> None:
    """Do nothing, on purpose: the handler of SIGINT."""


def _claim_stdin() -> int:
    """The pipe of commands under a number of its own: 0 is for the application and its children to read."""
    commands = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands


if __name__ == "__main__":
    main()
