"""The signals that stop a server, and the handlers that an application has put on them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TypeAlias

import trio

from trioasgi.process.early import too_early

logger = logging.getLogger("trioasgi")

STOPPING: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
"""Those that stop a server."""
STEERING: tuple[signal.Signals, ...] = ()
"""Those that a supervisor acts on while it goes on: it rolls, scales, and opens log files anew."""
if sys.platform == "win32":
    STOPPING += (signal.SIGBREAK,)
else:
    STOPPING += (signal.SIGQUIT,)
    STEERING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU)

AGAIN_AFTER = 0.5
"""A second signal counts only if it comes so many seconds after the first: a terminal and a process manager
may both send one to stop the server.
"""


def unblock_signals() -> None:
    """Receive the signals above also if the parent process has blocked them, as a child inherits that. For a
    process that belongs to the server.
    """
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOPPING, *STEERING))


def outlast_repeats(first_at: float) -> None:
    """Wait until a signal would not count any more as the one that came `first_at`, by the monotonic clock.
    Call this before a program gets its handlers back: by its default action such a signal would end a program
    whose server has stopped well.
    """
    while (left := first_at + AGAIN_AFTER - time.monotonic()) > 0:
        time.sleep(left)


SignalHandler: TypeAlias = Callable[[int, FrameType | None], object]


def wake_no_loop() -> None:
    """Stop signals from waking the loop. Call this last in the loop: when it ends, Trio closes the wake-up
    socket, and Python would print a traceback at the next signal. Handlers are still called.
    """
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


def is_hang_up(number: int) -> bool:
    """Is it SIGHUP? (Windows has none.)"""
    return signal.Signals(number).name == "SIGHUP"


def is_free(number: signal.Signals, *, even_if_ignored: bool = False) -> bool:
    """Has the program no handler of its own for this signal? For the main thread only.

    `even_if_ignored`: one that is ignored counts as free. That is for a process that belongs to the server,
    where its parent has had it ignored, as nohup(1) does.
    """
    handler = signal.getsignal(number)
    return handler in (signal.SIG_DFL, too_early) or (even_if_ignored and handler is signal.SIG_IGN)


class Handlers:
    """Our handlers of some signals, and the handlers that they have displaced. For the main thread only.

    A process that the application forks inherits ours. There they do what `_give_way` says.
    """

    def __init__(self, ours: Mapping[signal.Signals, SignalHandler]) -> None:
        self._ours = {number: self._in_this_process(handler) for number, handler in ours.items()}
        self._displaced: dict[signal.Signals, SignalHandler | int | None] = {}
        self._of_startup: dict[signal.Signals, SignalHandler | int | None] = {}

    def _in_this_process(self, handler: SignalHandler) -> SignalHandler:
        pid = os.getpid()

        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == pid:
                handler(number, frame)
            else:
                self._give_way(number)

        return handle

    def _give_way(self, number: int) -> None:
        """In a forked process: do what the signal would do without our handler.

        The forked process is not the server. If our handler took the signal there, `Process.terminate()`
        would have no effect.
        """
        self.restore()
        os.kill(os.getpid(), number)

    def install(self) -> None:
        """Install our handlers. Call it again after the import of the application, which may
        install its own.
        """
        for number, handler in self._ours.items():
            before = signal.signal(number, handler)
            if before != handler:
                self._displaced[number] = before

    def install_after_startup(self) -> None:
        """Replace handlers that the application's start-up has installed. They are not called any more."""
        for number, handler in self._ours.items():
            before = signal.signal(number, handler)
            if before != handler:
                self._of_startup[number] = before

    def restore(self) -> None:
        """Restore the handlers that were there before, or that the application's import has installed."""
        for number, handler in self._displaced.items():
            if handler is not None:  # None: installed by C code, so it cannot be restored
                signal.signal(number, handler)

    def restore_own(self) -> None:
        """As `restore`, but a handler that has replaced ours meanwhile stays."""
        for number, handler in self._displaced.items():
            if handler is not None and signal.getsignal(number) is self._ours[number]:
                signal.signal(number, handler)

    def ignore_own(self) -> None:
        """As `ignore`, but a handler that has replaced ours meanwhile stays."""
        for number, handler in self._ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_IGN)

    def ignore(self) -> None:
        """Ignore the signals until the process ends."""
        for number in self._ours:
            signal.signal(number, signal.SIG_IGN)

    def call_displaced(self, number: signal.Signals) -> None:
        """Call the program's or the application's own handler of this signal, after we have acted on it.
        Python's default handler is not called, as it raises KeyboardInterrupt.

        An exception of the handler is logged. It does not change the exit status.
        """
        handler = self._of_startup.get(number, self._displaced.get(number))
        if not callable(handler) or handler is signal.default_int_handler:
            return
        try:
            handler(number, None)
        except (SystemExit, KeyboardInterrupt):
            logger.debug("The application's handler of %s asks for the end that is there", number.name)
        except trio.RunFinishedError:
            logger.debug("The application's handler of %s speaks to a loop that has ended", number.name)
        except BaseException:
            logger.exception("the application's handler of %s failed", number.name)
