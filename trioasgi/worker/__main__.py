"""`python -m trioasgi.worker`: the start of a worker process.

Little is imported here, so that the handler of Ctrl-C is set before slow imports.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` takes half of the time until the handler is set
    from types import FrameType
    from typing import NoReturn

_LATE = 0.5
"""Seconds from the end of the pipe of commands until a worker ends that does not read it yet. One that reads
it by then ends in its own way.
"""


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
    commands = claim_stdin()
    watch = _Watch()
    watch.begin(commands)
    from trioasgi.process.imports import uncollected_imports

    with uncollected_imports():
        from trioasgi.worker.work import work

    sys.exit(work(commands, ignore_interrupt, watch.end))


def ignore_interrupt(_: int, __: FrameType | None) -> None:
    """Do nothing, on purpose: the handler of SIGINT."""


class _Watch:
    """Ends this process if its supervisor is gone before a thread carries out commands: imports may take
    long. (A `threading.Thread` would have to be imported too.)
    """

    def __init__(self) -> None:
        self._is_over = False

    def begin(self, commands: int) -> None:
        """Wait for the end of the pipe `commands`, in a thread, of which nothing is read there."""
        if sys.platform != "win32":
            try:
                _thread.start_new_thread(self._wait, (commands,))
            except RuntimeError:
                pass  # there is no room for a thread; `work` reports that

    def end(self) -> None:
        """Leave it to the thread that carries out commands."""
        self._is_over = True

    if sys.platform != "win32":

        def _wait(self, commands: int) -> None:
            import select

            pipe = select.poll()
            pipe.register(commands, 0)  # poll(2) reports a hang-up in any case
            pipe.poll()
            time.sleep(_LATE)
            if not self._is_over:
                os._exit(0)


def claim_stdin() -> int:
    """Move the pipe of commands to another descriptor: 0 is for the application and its children."""
    commands = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands


if __name__ == "__main__":
    main()
