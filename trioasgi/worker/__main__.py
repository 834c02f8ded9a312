"""`python -m trioasgi.worker`: the start of a worker process.

Little is imported here, so that the handler of Ctrl-C is set before slow imports.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes half of the time until the handler is set
    from types import FrameType
    from typing import NoReturn


def main() -> NoReturn:
    """Read the order on stdin, serve, and exit with an ExitStatus."""
    # Ctrl-C reaches all processes of the terminal's group, and only the supervisor acts on it. The
    # application's children would inherit SIG_IGN, but not a handler.
    signal.signal(signal.SIGINT, ignore_interrupt)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, ignore_interrupt)
    else:
        # A process manager may send these to all processes of the server, and they would end this one.
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, ignore_interrupt)
    commands = _claim_stdin()
    from trioasgi.process.imports import uncollected_imports

    with uncollected_imports():
        from trioasgi.worker.work import work

    sys.exit(work(commands, ignore_interrupt))


def ignore_interrupt(_: int, __: FrameType | None) -> None:
    """Do nothing, on purpose: the handler of SIGINT."""


def _claim_stdin() -> int:
    """Move the pipe of commands to another descriptor: 0 is for the application and its children."""
    commands = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands


if __name__ == "__main__":
    main()
